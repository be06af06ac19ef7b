"""Which probe is run for whom, and what came of it over the rounds."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.command import COMMANDS
from benchmarks.contenders import CREATE_TASK, GATHER, HAND, SCOPE, TASK
from benchmarks.growth import HUGE, LARGE, SMALL, VERBS
from benchmarks.measure import MeasurementError, Progress, Spread, run_child

TITLES = {
    "memory": "Memory of a queued job",
    "critical": "A CRITICAL job behind LOW ones of 5 µs each: from due to started",
    "gap": "Largest gap between two turns of the event loop while no-ops are drained",
    "light": "One job at a time through an idle pool",
    "cancel": "Cancelling by id, in random order",
    "options": "What an option adds to a no-op job",
    "import": "Import, beyond `import asyncio`",
    "command": "`aiopool map`: CPU for each line of trivial work, the start of the process included",
    "watching": "What watching adds to a no-op job",
    "logging": "What logs add to a no-op job",
    "tracing": "What OpenTelemetry adds to a no-op job",
    "workers": "What a resource of the worker, counts and a watchdog add to a no-op job",
    "growth": "What grows: each verb for many jobs, and for sixteen times as many",
    "asking": "What a question costs, with a backlog, and a hundred names of jobs",
}
WATCHING = ("watching", "logging", "tracing", "asking")
"""What stands in a section of its own on the page."""

_NEEDS = {"aiojobs": "aiojobs", "asyncio-pool": "asyncio_pool"}
_PROBE_NEEDS = {"tracing": "opentelemetry.sdk"}


@dataclass(frozen=True, slots=True)
class Scenario:
    """One probe for one contender."""

    probe: str
    contender: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """How `--only` finds this scenario."""
        size = "".join(f"/{value}" for value in self.parameters.values())
        return f"{self.probe}/{self.contender}{size}"

    @property
    def once(self) -> bool:
        """Whether one round is enough: what grows is the best of several runs in one process, and takes long."""
        return self.probe == "growth"

    def missing(self) -> str | None:
        """Say why this cannot run here, or None."""
        needed = _PROBE_NEEDS.get(self.probe) or _NEEDS.get(self.contender, "")
        module = self.contender if self.probe == "import" else needed
        if module and not _installed(module):
            return f"module `{module}` is not installed; `pip install -e '.[bench]'` brings it"
        return None


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it would be in
        return False


@dataclass(slots=True)
class ScenarioResult:
    """The numbers of one scenario: a list of samples for each."""

    scenario: Scenario
    samples: dict[str, list[float]] = field(default_factory=dict)
    skipped: str | None = None
    failed: str | None = None

    def spread(self, number: str) -> Spread:
        """Return the spread of one number over the rounds."""
        return Spread.of(self.samples[number])


@dataclass(slots=True)
class Growth:
    """What one verb takes for few jobs and for many."""

    verb: str
    contender: str
    costs: dict[int, float] = field(default_factory=dict)
    """CPU µs a job, by the number of jobs."""
    gap: float | None = None
    """The largest gap between two turns of the loop, in ms."""

    @property
    def ratio(self) -> float | None:
        """How much more a job of many costs than one of few."""
        return self.costs[LARGE] / self.costs[SMALL] if {SMALL, LARGE} <= self.costs.keys() else None


def growths(results: list[ScenarioResult]) -> list[Growth]:
    """Return what the probes of growth found, for each verb and contender."""
    found: dict[tuple[str, str], Growth] = {}
    for result in results:
        if result.scenario.probe != "growth":
            continue
        key = result.scenario.parameters["verb"], result.scenario.contender
        growth = found.setdefault(key, Growth(*key))
        if "us" in result.samples:
            growth.costs[result.scenario.parameters["count"]] = result.spread("us").median
        if "gap_ms" in result.samples:
            growth.gap = result.spread("gap_ms").median
    return list(found.values())


def run_scenarios(scenarios: list[Scenario], rounds: int, progress: Progress) -> list[ScenarioResult]:
    """Run all scenarios `rounds` times, interleaved."""
    results = [ScenarioResult(scenario, skipped=scenario.missing()) for scenario in scenarios]
    for turn in range(rounds):
        for result in results:
            scenario = result.scenario
            if result.skipped or result.failed or (turn and scenario.once):
                continue
            progress(f"round {turn + 1}/{rounds}  {scenario.key}")
            try:
                numbers = run_child(
                    {
                        "probe": scenario.probe,
                        "contender": scenario.contender,
                        "parameters": dict(scenario.parameters),
                    }
                )
            except MeasurementError as error:
                result.failed = str(error)
                result.samples.clear()
            else:
                for name, value in numbers.items():
                    result.samples.setdefault(name, []).append(value)
    return results


def all_scenarios() -> list[Scenario]:
    """Return every scenario at its full size."""
    behind = (TASK, SCOPE, HAND, GATHER, "aiojobs", "asyncio-pool")
    return [
        *(Scenario("memory", name, {"count": 1_000_000}) for name in behind),
        *(Scenario("critical", name, {"count": 100_000}) for name in behind),
        *(Scenario("gap", name, {"count": 100_000}) for name in behind),
        *(Scenario("light", name, {"count": 5_000}) for name in (TASK, SCOPE, CREATE_TASK)),
        *(
            Scenario("cancel", name, {"count": count, "cancels": min(count, 20_000)})
            for count in (10_000, 1_000_000)
            for name in (TASK, SCOPE)
        ),
        *(Scenario("options", name, {"count": 5_000, "repeats": 32}) for name in (TASK, SCOPE)),
        *(Scenario("import", name) for name in ("aiopool", "anyio", "aiojobs", "aiometer")),
        *(Scenario("command", name, {"count": 200_000}) for name in COMMANDS),
        *(Scenario("watching", name, {"count": 4_000, "repeats": 18}) for name in (TASK, SCOPE)),
        *(Scenario("logging", name, {"count": 1_000, "repeats": 12}) for name in (TASK, SCOPE)),
        *(Scenario("tracing", name, {"count": 2_000, "repeats": 14}) for name in (TASK, SCOPE)),
        *(Scenario("workers", name, {"count": 4_000, "repeats": 14}) for name in (TASK, SCOPE)),
        *(Scenario("asking", name, {"count": 10_000}) for name in (TASK, SCOPE)),
        *growth_scenarios(),
    ]


def growth_scenarios() -> list[Scenario]:
    """Return each verb at both sizes, and at a third one for the gap of the loop."""
    return [
        Scenario("growth", name, {"verb": verb, "count": count, **({"gaps": True} if count == HUGE else {})})
        for verb in VERBS
        for name in (TASK, SCOPE)
        for count in (SMALL, LARGE, HUGE)
    ]


def target_scenarios() -> list[Scenario]:
    """Return the scenarios about which a promise is made, and what else the pages of the docs show."""
    shown = ("memory", "critical", "gap", "light", "options", "import", "command", *WATCHING, "growth")
    ours = (TASK, SCOPE, CREATE_TASK, "aiopool", *COMMANDS)
    return [scenario for scenario in all_scenarios() if scenario.probe in shown and scenario.contender in ours]


def quick_scenarios() -> list[Scenario]:
    """Return a small one of each kind, for the smoke."""
    return [
        *(Scenario("memory", name, {"count": 1_000}) for name in (TASK, HAND)),
        *(Scenario("critical", name, {"count": 500, "samples": 2}) for name in (TASK, SCOPE)),
        *(Scenario("gap", name, {"count": 500}) for name in (TASK, GATHER)),
        *(Scenario("light", name, {"count": 50}) for name in (SCOPE, CREATE_TASK)),
        Scenario("cancel", TASK, {"count": 500, "cancels": 100}),
        Scenario("options", SCOPE, {"count": 200, "repeats": 1}),
        Scenario("import", "aiopool"),
        *(Scenario("command", name, {"count": 50}) for name in COMMANDS),
        Scenario("watching", TASK, {"count": 100, "repeats": 1}),
        Scenario("logging", TASK, {"count": 100, "repeats": 1}),
        Scenario("tracing", SCOPE, {"count": 100, "repeats": 1}),
        Scenario("workers", TASK, {"count": 100, "repeats": 1}),
        Scenario("asking", TASK, {"count": 100}),
        Scenario("growth", TASK, {"verb": "cancel_all, queued", "count": 50}),
        Scenario("growth", SCOPE, {"verb": "retries due together", "count": 50, "gaps": True}),
    ]
