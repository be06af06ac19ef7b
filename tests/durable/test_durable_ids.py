"""Ids of jobs: nobody else has them, a forked process included, and they are what RFC 9562 says."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid

import pytest

from aiopool._durable.ids import new_id


def test_ids_are_uuids_of_version_7_that_begin_with_the_time() -> None:
    """Whoever reads them sees when they were made."""
    before = time.time_ns() // 1_000_000
    ids = [uuid.UUID(new_id()) for _ in range(1000)]
    after = time.time_ns() // 1_000_000
    assert {(id.version, id.variant) for id in ids} == {(7, uuid.RFC_4122)}
    assert all(before <= id.int >> 80 <= after for id in ids)
    assert len({id.int & (1 << 62) - 1 for id in ids}) == 1000


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is forked there")
def test_a_forked_process_makes_other_ids() -> None:
    """What is random was asked for in advance; the child must not go on with the same."""
    # In a program of its own: where other tests have left threads, a fork may crash by itself.
    program = """
import os
from aiopool._durable.ids import new_id
new_id()
child = os.fork()
if child:
    os.waitpid(child, 0)
print(new_id(), flush=True)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    ids = done.stdout.split()
    assert [len(id) for id in ids] == [36, 36]
    assert ids[0][19:] != ids[1][19:]
