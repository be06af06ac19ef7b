"""What an error of a pool means to whoever has asked from outside: one table for the door and for HTTP."""

import pytest

from aiopool import PoolClosedError, QueueFullError
from aiopool._control.problems import TITLES, Problem, problem_of
from aiopool.errors import PayloadError, StoreError, StoreUnavailableError, UnknownJobError


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (PoolClosedError("no"), "closing"),
        (QueueFullError("no"), "queue-full"),
        (UnknownJobError("no"), "not-found"),
        (StoreUnavailableError("no"), "store-lost"),
        (StoreError("no"), "store-lost"),
        (PayloadError("no"), "invalid"),
        (ValueError("no"), "invalid"),
        (TypeError("no"), "invalid"),
        (RuntimeError("no"), "conflict"),
    ],
)
def test_an_error_has_a_meaning(error, kind):
    """The nearest one: a closed pool is no mere conflict, though its error is a kind of others."""
    found = problem_of(error)
    assert (found.kind, found.status) == (kind, TITLES[kind][0])
    assert "no" in found.detail


def test_a_problem_stays_itself_and_a_fault_is_none():
    """What nobody expected is logged, and no answer to anybody."""
    problem = Problem("conflict", "no", total=3)
    assert problem_of(problem) is problem
    assert problem_of(LookupError("no")) is None
    assert Problem.from_dict(problem.to_dict()).facts == {"total": 3}
    assert Problem.from_dict({"type": "of a later version"}).kind == "error"
