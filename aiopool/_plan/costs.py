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
    """

    submit: float
    run: float


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


_NOTHING: Final = Verb(0.0, 0.0, 0.0, 0.0)

COSTS: Final[dict[str, EngineCosts]] = {}
