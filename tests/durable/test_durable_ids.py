"""Ids of jobs: nobody else has them, a forked process included, and they are what RFC 9562 says."""

from __future__ import annotations

import os
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
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_makes_other_ids() -> None:
    """What is random was asked for in advance; the child must not go on with the same."""
    new_id()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover: it is another process
        os.write(write, new_id().encode())
        os._exit(0)
    os.close(write)  # so that a child that dies is seen, and not waited for
    theirs = os.read(read, 100).decode()
    os.close(read)
    _, status = os.waitpid(child, 0)
    assert status == 0
    assert theirs[19:] != new_id()[19:]
    assert len(theirs) == 36
