"""OpenTelemetry: a span for each attempt, and metrics, through its API; SDK and exporter are yours (extra `otel`).

The span of an attempt is current inside of the job, in the loop and in threads, so that spans of libraries hang below
it. It hangs below the span that was current where the job was submitted, or is linked to it.

It is a tracer (`instrumentation.tracing`): called in the context of the job, before its first line, and at its end.
Nothing runs between; gauges are read when a reader of the SDK asks.

The SDK knows one instrument by one name, and forgets the callbacks of a second one. So the pools of a meter provider
share one set of instruments, whose callbacks ask all of them; pools of the same name are told apart by a number.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, final

from aiopool import Job, JobStatus, Pool, Statistics
from aiopool._observe.metrics import label_text
from aiopool._runtime.faults import describe_error
from aiopool.instrumentation.tracing import add_tracer

try:
    from opentelemetry import context as otel_context
    from opentelemetry import metrics, trace
    from opentelemetry.metrics import CallbackOptions, Observation
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "aiopool.instrumentation.opentelemetry needs opentelemetry-api; in the checkout of aiopool, write: "
        'pip install -e ".[otel]"'
    ) from error

__all__ = ["Instrumentation", "instrument"]

SCOPE = "aiopool"
MAX_NAMES = 100
OTHER = "other"
_OUTCOMES = ("succeeded", "failed", "timed_out", "cancelled", "rejected")
# (name, unit, field of Statistics, help)
_COUNTERS = (
    ("aiopool.jobs.submitted", "{job}", "submitted", "Jobs handed in, the rejected ones included."),
    (
        "aiopool.jobs.dropped",
        "{job}",
        "dropped",
        "Jobs that were pushed out of a full queue; also cancelled ones.",
    ),
    ("aiopool.retries", "{attempt}", "retries", "Attempts after a first one."),
    ("aiopool.jobs.recovered", "{job}", "recovered", "Jobs that succeeded after a failed attempt."),
    ("aiopool.jobs.not_recovered", "{job}", "not_recovered", "Jobs that were tried again, and ended in another way."),
    ("aiopool.worker.restarts", "{worker}", "restarts", "Workers that were replaced after a crash."),
)
_GAUGES = (
    ("aiopool.jobs.running", "{job}", "running", "Jobs that run."),
    ("aiopool.jobs.queued", "{job}", "queued", "Jobs that wait for a worker."),
    ("aiopool.jobs.scheduled", "{job}", "scheduled", "Jobs that wait for a moment."),
    ("aiopool.jobs.leaked", "{job}", "leaked", "Calls that go on although their job has ended."),
    ("aiopool.uptime", "s", "uptime", "For how long the pool has been open, or was."),
    ("aiopool.size", "{slot}", "size", "How many jobs may run at once."),
    ("aiopool.slots.busy", "{slot}", "busy", "Slots taken, by running and by leaked jobs."),
    ("aiopool.threads.busy", "{thread}", "threads_busy", "Threads that run a plain function."),
    ("aiopool.threads.abandoned", "{thread}", "threads_abandoned", "Threads that run on although their job has ended."),
)


@final
class Instrumentation:
    """What `instrument` has attached to a pool. A tracer: the pool calls `started`, `retrying` and `ended`."""

    def __init__(
        self,
        pool: Pool,
        tracer: trace.Tracer | None,
        instruments: _Instruments | None,
        spans: Literal["parent", "link", "off"],
    ) -> None:
        self._pool = weakref.ref(pool)
        self._name = self._label = label_text(pool.name)
        self._tracer = tracer
        self._linked = spans == "link"
        self._spans: dict[Job[Any], trace.Span] = {}
        self._names: set[str] = set()
        self._instruments = instruments
        self._active = True
        if instruments is not None:
            self._label = instruments.add(self)
        self._registration = add_tracer(pool, self)

    def remove(self) -> None:
        """Record no more. Spans of attempts that run are ended now; removing twice is removing once."""
        self._registration.remove()
        self._active = False
        if self._instruments is not None:
            self._instruments.discard(self)
        while self._spans:
            self._spans.popitem()[1].end()

    # -- what the pool calls -----------------------------------------------------------------------------------------

    def started(self, job: Job[Any], worker: int) -> None:
        """An attempt begins; called inside the job's context."""
        if self._instruments is not None and job.attempt == 1 and job.started_at is not None:
            waited = job.started_at - job.submitted_at - job._first_delay
            self._instruments.wait.record(max(0.0, waited), self._labels(job))
        if self._tracer is None:
            return
        attributes: dict[str, str | int] = {
            "aiopool.pool": self._name,
            "aiopool.worker": worker,
            "aiopool.job.id": label_text(job.id) if isinstance(job.id, str) else job.id,
            "aiopool.job.name": (name := label_text(job.name)),
            "aiopool.job.attempt": job.attempt,
            "aiopool.job.priority": job.priority,
        }
        if job.group is not None:
            attributes["aiopool.job.group"] = label_text(job.group)
        submitter = trace.get_current_span()
        if self._linked:
            links = [trace.Link(submitter.get_span_context())] if submitter.get_span_context().is_valid else []
            root = trace.set_span_in_context(trace.INVALID_SPAN)
            span = self._tracer.start_span(name, context=root, attributes=attributes, links=links)
        else:
            span = self._tracer.start_span(name, attributes=attributes)
        self._spans[job] = span
        # Not detached: the context is that of this one attempt, and ends with it.
        otel_context.attach(trace.set_span_in_context(span))

    def retrying(self, job: Job[Any], worker: int | None, error: BaseException, delay: float, now: float) -> None:
        """An attempt has ended, and there will be another."""
        self._time(job, now)
        span = self._spans.pop(job, None)
        if span is not None:
            span.set_attribute("aiopool.job.retry_delay", delay)
            _end(span, "retrying", error)

    def ended(self, job: Job[Any], worker: int | None, now: float) -> None:
        """A job is done."""
        if worker is not None:
            self._time(job, now)
        span = self._spans.pop(job, None)
        if span is not None:
            status = job.status
            error = job.exception() if status in (JobStatus.FAILED, JobStatus.TIMED_OUT) else None
            _end(span, str(status), error)

    # -- metrics -----------------------------------------------------------------------------------------------------

    @property
    def label(self) -> str:
        """What the pool is called in metrics."""
        return self._label

    def statistics(self) -> Statistics | None:
        """Return the numbers of the pool, if there are any."""
        pool = self._pool()
        return pool.statistics() if pool is not None and self._active and pool.status != "new" else None

    def _time(self, job: Job[Any], now: float) -> None:
        if self._instruments is not None and job.started_at is not None:
            self._instruments.run.record(max(0.0, now - job.started_at), self._labels(job))

    def _labels(self, job: Job[Any]) -> dict[str, str]:
        name = label_text(job.name)
        if name not in self._names:
            if len(self._names) < MAX_NAMES:
                self._names.add(name)
            else:
                name = OTHER
        return {"pool": self._label, "name": name}


@final
class _Instruments:
    """What one meter provider measures of all pools that are instrumented for it."""

    def __init__(self, provider: metrics.MeterProvider | None) -> None:
        self._pools: tuple[weakref.ref[Instrumentation], ...] = ()
        meter = metrics.get_meter(SCOPE, meter_provider=provider)
        about = "From when a job could have started to its first start."
        self.wait = meter.create_histogram("aiopool.job.wait", "s", about)
        self.run = meter.create_histogram("aiopool.job.run", "s", "How long each attempt ran.")
        for name, unit, field, about in _COUNTERS:
            meter.create_observable_counter(name, [self._observe(field)], unit, about)
        for name, unit, field, about in _GAUGES:
            meter.create_observable_gauge(name, [self._observe(field)], unit, about)
        meter.create_observable_counter("aiopool.jobs", [self._outcomes], "{job}", "Jobs that have ended, by outcome.")

    def add(self, pool: Instrumentation) -> str:
        """Measure one more pool, and return a name for it that no other has."""
        taken = {other.label for other in self._living()}
        label, number = pool.label, 2
        while label in taken:
            label, number = f"{pool.label}-{number}", number + 1
        self._pools = (*(ref for ref in self._pools if ref() is not None), weakref.ref(pool))
        return label

    def discard(self, pool: Instrumentation) -> None:
        """Measure a pool no more."""
        self._pools = tuple(ref for ref in self._pools if ref() not in (None, pool))

    def _living(self) -> Iterator[Instrumentation]:
        return (pool for ref in self._pools if (pool := ref()) is not None)

    def _numbers(self) -> Iterator[tuple[str, Statistics]]:
        for pool in self._living():
            numbers = pool.statistics()
            if numbers is not None:
                yield pool.label, numbers

    def _observe(self, field: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def callback(options: CallbackOptions) -> Iterable[Observation]:
            return [Observation(getattr(numbers, field), {"pool": label}) for label, numbers in self._numbers()]

        return callback

    def _outcomes(self, options: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(getattr(numbers, name), {"pool": label, "outcome": name})
            for label, numbers in self._numbers()
            for name in _OUTCOMES
        ]


# The SDK keeps the callbacks, and so the instruments, as long as the provider; those of the global one are for ever.
_global: _Instruments | None = None
_by_provider: weakref.WeakKeyDictionary[metrics.MeterProvider, weakref.ref[_Instruments]] = weakref.WeakKeyDictionary()


def _instruments_of(provider: metrics.MeterProvider | None) -> _Instruments:
    """Return the one set of instruments of a meter provider."""
    global _global
    if provider is None or provider is metrics.get_meter_provider():
        if _global is None:
            _global = _Instruments(None)
        return _global
    known = _by_provider.get(provider)
    found = None if known is None else known()
    if found is None:
        found = _Instruments(provider)
        _by_provider[provider] = weakref.ref(found)
    return found


def _end(span: trace.Span, outcome: str, error: BaseException | None) -> None:
    span.set_attribute("aiopool.job.outcome", outcome)
    if error is not None:
        with contextlib.suppress(BaseException):  # it is printed there, which an exception may not survive
            span.record_exception(error)
        text = label_text(describe_error(error), 500)
        span.set_status(trace.Status(trace.StatusCode.ERROR, text))
    span.end()


def instrument(
    pool: Pool,
    *,
    spans: Literal["parent", "link", "off"] = "parent",
    metrics: bool = True,
    tracer_provider: trace.TracerProvider | None = None,
    meter_provider: metrics.MeterProvider | None = None,
) -> Instrumentation:
    """Trace and measure a pool by OpenTelemetry, from now on; before or after it is opened.

    Each attempt is a span, named after the job, with its pool, id, attempt, priority, group, worker and outcome; one
    that fails has the exception. A job that is cancelled or times out in the queue has none: it never ran.

    Args:
        pool: the pool.
        spans: `"parent"`: a span hangs below the one that was current where the job was submitted: request and job are
            one trace. `"link"`: it begins a trace of its own, with a link to that one: for jobs that outlive the
            request. `"off"`: no spans.
        metrics: counters, gauges, and histograms of wait and run times by name (the first hundred names; the rest is
            `"other"`).
        tracer_provider, meter_provider: the global ones, by default.

    Returns:
        A handle: its `remove()` ends it. It does not keep the pool alive.

    Raises:
        ValueError: `spans` is none of the three.

    Example:
        instrument(pool, spans="link")
    """
    if spans not in ("parent", "link", "off"):
        raise ValueError(f'spans={spans!r}: it must be "parent", "link" or "off"')
    return Instrumentation(
        pool,
        None if spans == "off" else trace.get_tracer(SCOPE, tracer_provider=tracer_provider),
        _instruments_of(meter_provider) if metrics else None,
        spans,
    )
