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
        submit=Verb(call=0.0009753, row=6.869e-05, host_call=0.0002111, host_row=3.68e-06),
        claim=Verb(call=0.000457, row=2.02e-05, host_call=0.0001399, host_row=2.54e-06),
        settle=Verb(call=0.0002891, row=3.98e-05, host_call=0.000156, host_row=3.36e-06),
        empty=Verb(call=0.0001144, row=0.0, host_call=9.19e-05, host_row=0.0),
        sweep=Verb(call=0.0001415, row=0.0, host_call=9.47e-05, host_row=0.0),
        beat=Verb(call=0.0002534, row=0.0, host_call=0.0001052, host_row=0.0),
        hint=2.13e-05,
        handoff=0.0,
        host=HostCosts(submit=2.57e-05, run=2.51e-05),
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
    ),
    "redis": EngineCosts(
        store="redis",
        source="python -m benchmarks.engine_costs --store redis",
        submit=Verb(call=7.38e-05, row=2.008e-05, host_call=0.0001617, host_row=9.01e-06),
        claim=Verb(call=7.42e-05, row=1.982e-05, host_call=0.0001848, host_row=2.77e-06),
        settle=Verb(call=6.93e-05, row=2.2e-05, host_call=0.0001445, host_row=1.18e-06),
        empty=Verb(call=6.5e-05, row=0.0, host_call=0.0001197, host_row=0.0),
        sweep=Verb(call=0.0001365, row=0.0, host_call=0.0001409, host_row=0.0),
        beat=Verb(call=5.89e-05, row=0.0, host_call=0.0001116, host_row=0.0),
        hint=1.23e-05,
        handoff=0.0,
        host=HostCosts(submit=2.62e-05, run=2.54e-05),
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
    ),
    "sqlite": EngineCosts(
        store="sqlite",
        source="python -m benchmarks.engine_costs --store sqlite",
        submit=Verb(call=0.0001255, row=1.676e-05, host_call=7.65e-05, host_row=2.1e-07),
        claim=Verb(call=0.0001402, row=1.094e-05, host_call=7.53e-05, host_row=1.2e-07),
        settle=Verb(call=0.0001275, row=2.905e-05, host_call=6.21e-05, host_row=1.5e-07),
        empty=Verb(call=3.98e-05, row=0.0, host_call=0.0, host_row=0.0),
        sweep=Verb(call=4.7e-05, row=0.0, host_call=0.0, host_row=0.0),
        beat=Verb(call=0.0, row=0.0, host_call=0.0, host_row=0.0),
        hint=5.76e-05,
        handoff=0.0,
        host=HostCosts(submit=2.77e-05, run=2.75e-05),
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
    ),
}
