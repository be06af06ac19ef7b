"""`explore`: one scenario under many schedules, and the seed that broke it.

Knows seeds and failures; how a seed becomes a schedule is `_schedule.py`. Invariant: a failure always ends
in one line that brings it back.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Unpack

from ._loop import LoopOptions, VirtualLoop
from ._report import describe_callback, takes_argument
from ._runner import VirtualRunner
from ._schedule import Mode

__all__ = ["DELAYS", "SEEDS_VARIABLE", "Exploration", "explore"]

SEEDS_VARIABLE = "AIOPOOL_SEEDS"

DELAYS = (0.0, 0.0, 0.25, 0.5, 1.0)
"""Delays to draw from in a scenario: a coarse grid, so that things happen at the *same* moment.

Continuous random delays hardly ever meet, and so find no race: a cancel planted between two lines lived
through 15,000 of them, and through one or two with this grid.
"""

_LAST_STEPS = 12

Scenario = Callable[[], Coroutine[Any, Any, object]] | Callable[[random.Random], Coroutine[Any, Any, object]]


@dataclass(frozen=True, slots=True)
class Exploration:
    """What a search without a failure has seen.

    Attributes:
        runs: how many seeds were run.
        schedules: how many different runs they made; few, and more seeds will bring nothing new.
        steps: callbacks run in all.
    """

    runs: int
    schedules: int
    steps: int


def explore(
    scenario: Scenario,
    *,
    seeds: Iterable[int] = range(100),
    mode: Mode = "tasks",
    debug: bool | None = None,
    allow_unhandled: bool = False,
    **options: Unpack[LoopOptions],
) -> Exploration:
    """Run an async scenario in virtual time once per seed, each time under another schedule.

    The first failure ends the search. The environment variable `AIOPOOL_SEEDS` takes precedence over
    `seeds`: `"162"`, `"0-20000"` (both ends included), or several of these with commas between.

    Args:
        scenario: a coroutine function. If it takes an argument it gets a `random.Random` of the same seed,
            for its delays and its choices (draw delays from `DELAYS`).
        seeds: which seeds.
        mode: `"tasks"` for another legal order in each run; `"fifo"` for asyncio's own in all.
        debug: asyncio's debug mode; None leaves it to the environment.
        allow_unhandled: accept runs in which the loop's exception handler was called.
        **options: `max_steps`, `max_steps_at_once`, `patience` and `offload` of `VirtualLoop`.

    Returns:
        How many runs, and how many of them differed.

    Raises:
        AssertionError: a run failed. The exception of the scenario is its cause; the last line replays it:
            `replay: explore(scenario, seeds=[162], mode='tasks')`.
        ValueError: there was no seed at all, or `AIOPOOL_SEEDS` cannot be read.

    Example:
        async def scenario(chance):
            async with Pool(size=2) as pool:
                ...

        explore(scenario, seeds=range(1000))
    """
    runs = steps = 0
    schedules: set[str] = set()
    for seed in _seeds(seeds):
        done = _run(scenario, seed, mode, debug, allow_unhandled, runs, options)
        runs += 1
        steps += done.steps
        schedules.add(done.hash)
    if not runs:
        raise ValueError("explore(…, seeds=…) got no seed, so nothing was tested; use seeds=range(100)")
    return Exploration(runs, len(schedules), steps)


@dataclass(slots=True)
class _Run:
    """One run up to the end of the scenario: what the clean-up adds would only hide it."""

    steps: int = 0
    hash: str = ""
    last: str = ""

    def note(self, loop: VirtualLoop) -> None:
        self.steps = loop.steps
        self.hash = loop.trace_hash()
        steps = "\n".join(f"  {label}" for label in loop.trace[-_LAST_STEPS:])
        where = f"virtual time {loop.time():g} s, {self.steps} steps, trace {self.hash}"
        self.last = f"{where}; the last of them:\n{steps}"


def _run(
    scenario: Scenario,
    seed: int,
    mode: Mode,
    debug: bool | None,
    allow_unhandled: bool,
    runs: int,
    options: LoopOptions,
) -> _Run:
    name = describe_callback(scenario)
    replay = f"replay: explore({name.rpartition('.')[2]}, seeds=[{seed}], mode={mode!r})"
    run = _Run()
    runner = VirtualRunner(seed=seed, mode=mode, debug=debug, **options)
    try:
        with runner:
            try:
                runner.run(_call(scenario, seed))
            finally:
                run.note(runner.loop)
        if runner.loop.unhandled and not allow_unhandled:
            raise AssertionError("the loop's exception handler was called: " + "; ".join(runner.loop.unhandled))
    except (Exception, asyncio.CancelledError) as error:
        # The text of the error may have many lines; the line to copy must be the last one.
        raise AssertionError(
            f"{name} failed under seed {seed} after {runs} runs without a failure: "
            f"{type(error).__name__}: {error}\n{run.last}\n"
            f"or in the environment: {SEEDS_VARIABLE}={seed}\n{replay}"
        ) from error
    except BaseException as error:  # a skip, an interrupt: not ours to turn into a failure
        error.add_note(replay)
        raise
    return run


def _call(scenario: Callable[..., Coroutine[Any, Any, object]], seed: int) -> Coroutine[Any, Any, object]:
    if not takes_argument(scenario):
        return scenario()
    # Not the generator of the schedule: a choice of the scenario must not shift the schedule.
    return scenario(random.Random(f"workload {seed}"))  # noqa: S311 - delays are no secret


def _seeds(default: Iterable[int]) -> Iterator[int]:
    text = os.environ.get(SEEDS_VARIABLE, "").strip()
    if not text:
        yield from default
        return
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        try:
            low = int(first)
            high = int(last) if dash else low
            if low > high:
                raise ValueError
        except ValueError:
            raise ValueError(
                f"{SEEDS_VARIABLE}={text!r}: {part!r} is no seed and no range of seeds; "
                f"write {SEEDS_VARIABLE}=162 or {SEEDS_VARIABLE}=0-20000"
            ) from None
        yield from range(low, high + 1)
