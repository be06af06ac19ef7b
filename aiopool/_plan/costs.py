"""What the verbs of a store take, as numbers: one table for each engine, with where its numbers come from.

It knows no pool and no clock. A call of a verb takes `call + rows * row` seconds at the engine, and `host_call + rows *
host_row` seconds of processor time at the host that makes it. Every number is from a measurement, of which `source`
tells the command; numbers that are settings (connections, polls) are those of the store.

Always true: all numbers are seconds, or plain counts, and not below 0.
"""

from __future__ import annotations

import dataclasses
from typing import Final, final

__all__ = ["COSTS", "EngineCosts", "HostCosts", "Verb"]


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Verb:
    """What one verb takes, in seconds.

    Attributes:
        call, row: at the engine, for each call and for each row.
        host_call, host_row: of processor time at the caller.
    """

    call: float
    row: float
    host_call: float
    host_row: float

    def engine(self, rows: int) -> float:
        """Return the seconds at the engine."""
        return self.call + rows * self.row

    def host(self, rows: int) -> float:
        """Return the seconds of processor time at the caller."""
        return self.host_call + rows * self.host_row


@final
@dataclasses.dataclass(frozen=True, slots=True)
class HostCosts:
    """What a job takes of the processor in a pool, in seconds, besides its own code and the store.

    Attributes:
        submit: its submission.
        run: its run, from the claim to its end.
        late: how late its event loop is when a timer, a hint or an answer wakes it: what the system takes for that.
    """

    submit: float
    run: float
    late: float = 0.0


@final
@dataclasses.dataclass(frozen=True, slots=True)
class EngineCosts:
    """The costs of one engine. See the module.

    Attributes:
        store: the scheme of its URL.
        source: where the numbers come from.
        submit, claim, settle: the three verbs on the way of a job.
        empty: a claim that finds nothing.
        sweep: a sweep that finds nothing.
        beat: a heartbeat; only if there is a `lease`.
        hint: seconds of the engine for each process that is told that there is work.
        handoff: seconds until the next writer goes on, when it is in another process.
        host: what a job takes in a pool.
        servers: how many calls the engine carries out at once.
        reads_are_free: a claim that finds nothing does not wait for the engine.
        waits_for_disk: a call that changes something waits for the disk.
        one_machine: all processes are on one machine, and share its processors.
        cores: of that machine.
        connections: that one process keeps.
        max_connections: that the engine takes as it is installed; None: any number.
        network: seconds of a round trip between a host and the engine.
        poll, sweep_every, lease: of the store.
        hinted: hosts are told that there is work; behind a pooler they have to ask.
    """

    store: str
    source: str
    submit: Verb
    claim: Verb
    settle: Verb
    empty: Verb
    sweep: Verb
    beat: Verb
    hint: float
    handoff: float
    host: HostCosts
    servers: int
    reads_are_free: bool
    waits_for_disk: bool
    one_machine: bool
    cores: int
    connections: int
    max_connections: int | None
    network: float
    poll: float
    sweep_every: float
    lease: float | None
    hinted: bool = True


COSTS: Final[dict[str, EngineCosts]] = {
    "postgresql": EngineCosts(
        store="postgresql",
        source="python -m benchmarks.engine_costs --store postgresql",
        submit=Verb(call=0.0002686, row=0.00020806, host_call=0.0001569, host_row=3.89e-06),
        claim=Verb(call=0.0005456, row=1.361e-05, host_call=0.000122, host_row=2.47e-06),
        settle=Verb(call=0.0004656, row=4.75e-05, host_call=0.0001279, host_row=3.06e-06),
        empty=Verb(call=0.0001479, row=0.0, host_call=0.0001002, host_row=0.0),
        sweep=Verb(call=0.0002155, row=0.0, host_call=0.0001212, host_row=0.0),
        beat=Verb(call=0.0003995, row=0.0, host_call=0.0001136, host_row=0.0),
        hint=3.2e-05,
        handoff=0.0,
        host=HostCosts(submit=2.72e-05, run=2.7e-05, late=0.0001652),
        servers=2,
        reads_are_free=False,
        waits_for_disk=True,
        one_machine=False,
        cores=2,
        connections=4,
        max_connections=97,
        network=0.0005,
        poll=1.0,
        sweep_every=0.4,
        lease=30.0,
        hinted=True,
    ),
    "redis": EngineCosts(
        store="redis",
        source="python -m benchmarks.engine_costs --store redis",
        submit=Verb(call=6.08e-05, row=4.023e-05, host_call=0.000173, host_row=1.008e-05),
        claim=Verb(call=7.69e-05, row=3.148e-05, host_call=0.0002119, host_row=3.13e-06),
        settle=Verb(call=6.34e-05, row=3.858e-05, host_call=0.0001624, host_row=1.4e-06),
        empty=Verb(call=8.06e-05, row=0.0, host_call=0.0001366, host_row=0.0),
        sweep=Verb(call=0.0002035, row=0.0, host_call=0.0001584, host_row=0.0),
        beat=Verb(call=7.26e-05, row=0.0, host_call=0.0001178, host_row=0.0),
        hint=0.0,
        handoff=0.0,
        host=HostCosts(submit=2.74e-05, run=2.57e-05, late=0.0001827),
        servers=1,
        reads_are_free=False,
        waits_for_disk=False,
        one_machine=False,
        cores=2,
        connections=4,
        max_connections=10000,
        network=0.0005,
        poll=1.0,
        sweep_every=0.5,
        lease=15.0,
        hinted=True,
    ),
    "sqlite": EngineCosts(
        store="sqlite",
        source="python -m benchmarks.engine_costs --store sqlite",
        submit=Verb(call=0.0002353, row=7.85e-06, host_call=8.36e-05, host_row=1.3e-07),
        claim=Verb(call=0.0002205, row=6.53e-06, host_call=8.5e-05, host_row=8e-08),
        settle=Verb(call=0.000272, row=1.336e-05, host_call=6.9e-05, host_row=9e-08),
        empty=Verb(call=4.08e-05, row=0.0, host_call=0.0, host_row=0.0),
        sweep=Verb(call=4.86e-05, row=0.0, host_call=0.0, host_row=0.0),
        beat=Verb(call=0.0, row=0.0, host_call=0.0, host_row=0.0),
        hint=1.39e-05,
        handoff=0.0,
        host=HostCosts(submit=2.48e-05, run=2.35e-05, late=0.0001767),
        servers=1,
        reads_are_free=True,
        waits_for_disk=True,
        one_machine=True,
        cores=2,
        connections=0,
        max_connections=None,
        network=0.0,
        poll=0.25,
        sweep_every=0.25,
        lease=None,
        hinted=True,
    ),
}
