"""OpenTelemetry, with the real SDK and its exporters in memory: spans by attempt, parents and links, metrics."""

import asyncio
import contextlib
import gc
import gzip
import http.server
import re
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import yaml
from busy_pool import NUMBERS, crowded
from helpers import echo, fail, nap, virtual

from aiopool import Pool, Restart, Retry
from aiopool.testing import settle

pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is not installed (extra `test`)")

from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from aiopool.instrumentation.opentelemetry import MAX_NAMES, instrument
from aiopool.instrumentation.tracing import add_tracer


class Traces:
    """A tracer provider, and what it has exported."""

    def __init__(self, **options):
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(**options)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("the program")

    def __call__(self, name=None):
        return [span for span in self.exporter.get_finished_spans() if name in (None, span.name)]


class Numbers:
    """A meter provider, and what it measures when it is asked."""

    def __init__(self):
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader], shutdown_on_exit=False)

    def __call__(self):
        data = self.reader.get_metrics_data()
        found = {}
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for point in metric.data.data_points:
                        found[metric.name, *(value for _, value in sorted(point.attributes.items()))] = point
        return found


@pytest.fixture
def traces():
    return Traces()


@pytest.fixture
def numbers():
    return Numbers()


# -- spans -------------------------------------------------------------------------------------------------------------


@virtual
async def test_a_span_for_each_attempt(isolation, traces):
    """Named after the job, with all that is known; ended with the attempt."""
    async with Pool(1, isolation=isolation, name="shop") as pool:
        instrument(pool, tracer_provider=traces.provider, metrics=False)
        job = await pool.with_options(id="a-1", name="send", group="mail", priority=3).submit(nap, 1)
        await settle()
        assert traces() == []
        await job
        [span] = traces()
    assert span.name == "send"
    assert dict(span.attributes) == {
        "aiopool.pool": "shop",
        "aiopool.worker": 1,
        "aiopool.job.id": "a-1",
        "aiopool.job.name": "send",
        "aiopool.job.attempt": 1,
        "aiopool.job.priority": 3,
        "aiopool.job.group": "mail",
        "aiopool.job.outcome": "succeeded",
    }
    assert span.status.is_ok
    assert span.parent is None
    assert span.end_time >= span.start_time


@virtual
async def test_below_the_submitter_or_linked_to_it(isolation):
    """By choice: one trace with the submitter, or a trace of its own with a link; baggage of neither is lost."""
    for choice in ("parent", "link"):
        traces = Traces()
        async with Pool(1, isolation=isolation) as pool:
            instrument(pool, spans=choice, tracer_provider=traces.provider, metrics=False)
            with traces.tracer.start_as_current_span("request") as request:
                job = await pool.submit(echo)
            await job
            await pool.run(echo)  # outside of any span
        inside, outside = traces("echo")
        there = request.get_span_context()
        if choice == "parent":
            assert (inside.parent.span_id, inside.context.trace_id) == (there.span_id, there.trace_id)
            assert inside.links == ()
        else:
            assert inside.parent is None
            assert inside.context.trace_id != there.trace_id
            assert [link.context.span_id for link in inside.links] == [there.span_id]
        assert (outside.parent, outside.links) == (None, ())


@virtual
async def test_retries_are_spans_of_their_own(isolation, traces):
    """Each attempt has one, all below the submitter; those that fail have the exception."""
    async with Pool(1, isolation=isolation) as pool:
        instrument(pool, tracer_provider=traces.provider, metrics=False)
        with traces.tracer.start_as_current_span("request") as request, contextlib.suppress(ValueError):
            await (await pool.with_options(retry=Retry(attempts=3, delay=2, jitter=0)).submit(fail))
    spans = traces("fail")
    assert [span.attributes["aiopool.job.attempt"] for span in spans] == [1, 2, 3]
    assert [span.attributes["aiopool.job.outcome"] for span in spans] == ["retrying", "retrying", "failed"]
    assert spans[0].attributes["aiopool.job.retry_delay"] == 2
    assert {span.parent.span_id for span in spans} == {request.get_span_context().span_id}
    for span in spans:
        assert not span.status.is_ok
        assert [event.attributes["exception.type"] for event in span.events] == ["ValueError"]


@virtual
async def test_every_end(isolation, traces):
    """Timed out is an error; cancelled is none; a job that never ran has no span."""
    async with Pool(1, isolation=isolation) as pool:
        instrument(pool, tracer_provider=traces.provider, metrics=False)
        with contextlib.suppress(TimeoutError):
            await (await pool.with_options(timeout=1, name="late").submit(nap, 5))
        job = await pool.with_options(name="cancelled").submit(nap, 5)
        queued = await pool.with_options(name="never").submit(nap, 5)
        await settle()
        queued.cancel()
        await pool.cancel(job.id)
    late, cancelled = traces()
    assert (late.name, late.attributes["aiopool.job.outcome"], late.status.is_ok) == ("late", "timed_out", False)
    assert "ran for longer than 1 s" in late.status.description
    assert (cancelled.attributes["aiopool.job.outcome"], cancelled.status.is_ok) == ("cancelled", True)


@virtual
async def test_the_span_is_current_inside_of_the_job(isolation, traces):
    """Spans of the job, of its tasks and of nested jobs hang below it; nothing of it is left outside."""

    async def child(name):
        with traces.tracer.start_as_current_span(name):
            await asyncio.sleep(1)

    async def outer():
        await child("own")
        await asyncio.create_task(child("task"))
        await pool.run(child, "nested")

    async with Pool(1, isolation=isolation) as pool:
        instrument(pool, tracer_provider=traces.provider, metrics=False)
        await pool.run(outer)
        assert trace.get_current_span() is trace.INVALID_SPAN
        await pool.run(child, "next")
    own, task, nested, following = (traces(name)[0] for name in ("own", "task", "nested", "next"))
    [outer_span] = traces("test_the_span_is_current_inside_of_the_job.<locals>.outer")
    jobs = traces("test_the_span_is_current_inside_of_the_job.<locals>.child")
    assert own.parent.span_id == task.parent.span_id == outer_span.context.span_id
    assert nested.parent.span_id == jobs[0].context.span_id
    assert jobs[0].parent.span_id == outer_span.context.span_id
    assert following.parent.span_id == jobs[1].context.span_id
    assert jobs[1].parent is None


def test_the_span_is_current_in_threads(new_pool, traces):
    """A plain function in a thread sees the span of its attempt."""

    def work():
        with traces.tracer.start_as_current_span("inside"):
            pass

    async def main():
        async with new_pool(1) as pool:
            instrument(pool, tracer_provider=traces.provider, metrics=False)
            for _ in range(3):
                await pool.with_options(name="work").run(work)

    asyncio.run(main())
    assert [span.parent.span_id for span in traces("inside")] == [span.context.span_id for span in traces("work")]


@virtual
async def test_many_jobs_at_once_do_not_mix(isolation, traces):
    """Two hundred jobs, interleaved, each with spans of its own below its own."""

    async def work(n):
        for step in range(3):
            with traces.tracer.start_as_current_span(f"{n} {step}"):
                await asyncio.sleep(n % 7 / 10)

    async with Pool(20, isolation=isolation) as pool:
        instrument(pool, tracer_provider=traces.provider, metrics=False)
        for n in range(200):
            await pool.with_options(name=f"job {n}").submit(work, n)
        await pool.join()
    above = {span.context.span_id: span.name for span in traces() if span.name.startswith("job")}
    assert len(above) == 200
    for n in range(200):
        for step in range(3):
            [span] = traces(f"{n} {step}")
            assert above[span.parent.span_id] == f"job {n}"


@virtual
async def test_hostile_names_can_be_exported(isolation, traces):
    """Names, ids and groups are cut, and valid UTF-8: an exporter would drop the whole batch."""
    text = "half \ud800\n" + "x" * 100_000
    async with Pool(1, isolation=isolation, name=text) as pool:
        instrument(pool, tracer_provider=traces.provider, metrics=False)
        await pool.with_options(name=text, id=text, group=text).run(echo)
    [span] = traces()
    for value in (span.name, *span.attributes.values()):
        if isinstance(value, str):
            value.encode()
            assert len(value) < 200


@virtual
async def test_a_sampler_may_say_no(isolation):
    """A span that is not sampled is none, and hurts nothing."""
    traces = Traces(sampler=ALWAYS_OFF)
    async with Pool(1, isolation=isolation) as pool:
        instrument(pool, tracer_provider=traces.provider, metrics=False)
        assert await pool.run(echo, 1) == 1
    assert traces() == []


@virtual
async def test_taking_it_back(isolation, traces):
    """`remove()` ends the spans that are open, and the pool pays nothing any more; it keeps no pool alive."""
    async with Pool(1, isolation=isolation) as pool:
        handle = instrument(pool, tracer_provider=traces.provider, metrics=False)
        job = await pool.submit(nap, 1)
        await settle()
        handle.remove()
        handle.remove()
        assert len(traces()) == 1
        await job
        await pool.run(echo)
        assert len(traces()) == 1
        assert pool._state.engine.observers is None
        assert handle._spans == {}


@virtual
async def test_a_recorder_that_raises_hurts_no_job(isolation, caplog):
    """It is logged once, and removed."""

    class Broken:
        def started(self, job, worker):
            raise OSError("exporter")

        def retrying(self, job, worker, error, delay, now): ...
        def ended(self, job, worker, now): ...

    async with Pool(1, isolation=isolation) as pool:
        add_tracer(pool, Broken())
        assert [await pool.run(echo, n) for n in range(3)] == [0, 1, 2]
        assert pool._state.engine.observers is None
    assert len([record for record in caplog.records if "records no more" in record.message]) == 1


def test_what_spans_may_be():
    """Refused, with what is allowed."""
    with pytest.raises(ValueError, match='"parent", "link" or "off"'):
        instrument(Pool(), spans="child")


# -- metrics -----------------------------------------------------------------------------------------------------------


@virtual
async def test_metrics_through_the_api(isolation, numbers):
    """Counters and gauges are read off the pool; histograms by name have the right count and sum."""
    pool = Pool(2, 10, isolation=isolation, name="shop", on_error=lambda job, error: None)
    instrument(pool, spans="off", meter_provider=numbers.provider)
    assert numbers() == {}
    async with pool:
        for seconds in (1, 2, 4):
            await pool.submit(nap, seconds)
        await pool.with_options(retry=Retry(attempts=2, delay=1, jitter=0)).submit(fail)
        await asyncio.sleep(1.5)
        now = numbers()
        assert now["aiopool.jobs.running", "shop"].value == 2
        assert now["aiopool.size", "shop"].value == 2
        await pool.join()
        now = numbers()
        assert now["aiopool.jobs.submitted", "shop"].value == 4
        assert now["aiopool.retries", "shop"].value == 1
        assert now["aiopool.jobs", "succeeded", "shop"].value == 3
        assert now["aiopool.jobs", "failed", "shop"].value == 1
        assert now["aiopool.jobs.running", "shop"].value == 0
        run, wait = now["aiopool.job.run", "nap", "shop"], now["aiopool.job.wait", "nap", "shop"]
        assert (run.count, run.sum) == (3, 7)
        assert (wait.count, wait.sum) == (3, 1)
        assert now["aiopool.job.run", "fail", "shop"].count == 2
        assert now["aiopool.job.wait", "fail", "shop"].count == 1


def test_each_number_is_its_own(new_pool, numbers):
    """In a pool in which hardly two of them are equal, no instrument shows what another one should."""

    async def main():
        async with crowded(new_pool) as (pool, _):
            instrument(pool, spans="off", meter_provider=numbers.provider)
            return numbers()

    now = asyncio.run(main())
    expected = {
        "jobs.submitted": NUMBERS["submitted"],
        "jobs.running": NUMBERS["running"],
        "jobs.queued": NUMBERS["queued"],
        "jobs.scheduled": NUMBERS["scheduled"],
        "jobs.leaked": NUMBERS["leaked"],
        "size": NUMBERS["size"],
        "slots.busy": NUMBERS["busy"],
        "threads.busy": NUMBERS["threads_busy"],
        "threads.abandoned": NUMBERS["threads_abandoned"],
    }
    assert {name: now[f"aiopool.{name}", "shop"].value for name in expected} == expected
    outcomes = {key[1]: point.value for key, point in now.items() if key[0] == "aiopool.jobs"}
    assert outcomes == {"succeeded": 0, "failed": 0, "timed_out": 1, "cancelled": 0, "rejected": NUMBERS["rejected"]}


@virtual
async def test_a_job_that_is_cancelled_between_attempts_ran_once(isolation, numbers):
    """The end of a job that does not run is no attempt."""
    async with Pool(1, isolation=isolation) as pool:
        instrument(pool, spans="off", meter_provider=numbers.provider)
        job = await pool.with_options(retry=Retry(attempts=2, delay=50)).submit(fail)
        await asyncio.sleep(1)
        await pool.cancel(job.id)
        assert numbers()["aiopool.job.run", "fail", "pool"].count == 1


@virtual
async def test_restarts_are_counted(isolation, numbers):
    """Workers that were replaced, and not attempts."""
    async with Pool(1, isolation=isolation, restart=Restart(delay=1)) as pool:
        instrument(pool, spans="off", meter_provider=numbers.provider)
        await pool.run(asyncio.sleep, 0)
        pool._state.supervisor.workers()[0].crash(OSError("broken"))
        await asyncio.sleep(2)
        assert numbers()["aiopool.worker.restarts", "pool"].value == 1
        assert numbers()["aiopool.retries", "pool"].value == 0


@virtual
async def test_several_pools_are_all_measured(isolation, numbers, caplog):
    """One set of instruments for all pools of a provider: no pool is lost, and two of one name are told apart."""
    pools = [Pool(size, isolation=isolation, name=name) for size, name in ((2, "mail"), (3, "web"), (4, "web"))]
    async with contextlib.AsyncExitStack() as stack:
        handles = []
        for pool in pools:
            handles.append(instrument(pool, spans="off", meter_provider=numbers.provider))
            await stack.enter_async_context(pool)
            await pool.run(nap, 1)

        def sizes():
            return {key[1]: point.value for key, point in numbers().items() if key[0] == "aiopool.size"}

        assert sizes() == {"mail": 2, "web": 3, "web-2": 4}
        now = numbers()
        assert [now["aiopool.job.run", "nap", name].count for name in ("mail", "web", "web-2")] == [1, 1, 1]
        assert [now["aiopool.jobs", "succeeded", name].value for name in ("mail", "web", "web-2")] == [1, 1, 1]
        handles[1].remove()
        assert sizes() == {"mail": 2, "web-2": 4}
        instrument(pools[1], spans="off", meter_provider=numbers.provider)
        assert sizes() == {"mail": 2, "web": 3, "web-2": 4}
    assert caplog.records == []


def test_the_global_provider_may_come_late():
    """Pools that are instrumented before and after `set_meter_provider` are all measured."""
    program = """
        import asyncio
        from opentelemetry import metrics
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from aiopool import Pool
        from aiopool.instrumentation.opentelemetry import instrument

        async def main():
            reader = InMemoryMetricReader()
            async with Pool(1, name="early") as early, Pool(1, name="late") as late, Pool(1, name="named") as named:
                instrument(early, spans="off")
                metrics.set_meter_provider(MeterProvider([reader], shutdown_on_exit=False))
                instrument(late, spans="off")
                instrument(named, spans="off", meter_provider=metrics.get_meter_provider())
                [resource] = reader.get_metrics_data().resource_metrics
                [scope] = resource.scope_metrics
                [sizes] = [metric for metric in scope.metrics if metric.name == "aiopool.size"]
                print(*sorted(point.attributes["pool"] for point in sizes.data.data_points))

        asyncio.run(main())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("early late named\n", "")


@virtual
async def test_a_delay_is_no_wait(isolation, numbers):
    """As in `aiopool.metrics`: a job waits from the moment at which it could have started."""
    async with Pool(1, isolation=isolation) as pool:
        instrument(pool, spans="off", meter_provider=numbers.provider)
        await pool.with_options(delay=5).run(nap, 1)
        wait = numbers()["aiopool.job.wait", "nap", "pool"]
        assert (wait.count, wait.sum) == (1, 0)


@virtual
async def test_names_are_bounded(isolation, numbers):
    """The first hundred names have series of their own; nothing is lost."""
    async with Pool(4, None, isolation=isolation) as pool:
        instrument(pool, spans="off", meter_provider=numbers.provider)
        for n in range(MAX_NAMES + 50):
            await pool.with_options(name=f"job {n}").submit(echo)
        await pool.join()
    points = {key: point for key, point in numbers().items() if key[0] == "aiopool.job.run"}
    assert len(points) == MAX_NAMES + 1
    assert points["aiopool.job.run", "other", "pool"].count == 50


@virtual
async def test_a_pool_that_is_gone_is_not_measured(isolation, numbers):
    """Neither after `remove()`, nor when nobody has it any more."""
    pool = Pool(1, isolation=isolation)
    handle = instrument(pool, spans="off", meter_provider=numbers.provider)
    async with pool:
        await pool.run(echo)
        assert "aiopool.size" in {key[0] for key in numbers()}
    del pool
    gc.collect()
    assert "aiopool.size" not in {key[0] for key in numbers()}
    handle.remove()


OPERATIONS = Path(__file__).parents[2] / "docs" / "operations"
SENDING = """
    import asyncio, sys
    {recipe}

    from aiopool import Pool, Retry
    from aiopool.instrumentation.opentelemetry import instrument

    async def charge(order):
        if order == 13:
            raise ConnectionError("the bank")

    async def main():
        async with Pool(2, name="shop", on_error=lambda job, error: None) as pool:
            instrument(pool)
            with trace.get_tracer("program").start_as_current_span("request"):
                for order in (12, 13):
                    await pool.submit(charge, order)
            await pool.join()
            meters.force_flush()

    tracers, meters = send_to_collector("shop", sys.argv[1])
    asyncio.run(main())
    tracers.shutdown()
    meters.shutdown()
"""


class Collector(http.server.BaseHTTPRequestHandler):
    """What a collector is for a program: a server that takes OTLP over HTTP."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.taken.append((self.path, body))
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.end_headers()

    def log_message(self, *args):
        pass


def test_a_collector_gets_what_the_page_sends(tmp_path):
    """The recipe of the docs, in a process of its own, against a real server that reads OTLP."""
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the OTLP exporter is not installed")
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    page = (OPERATIONS.parent / "how-to" / "opentelemetry.md").read_text()
    [recipe] = [
        block for block in re.findall(r"^```python\n(.*?)^```", page, re.M | re.S) if "send_to_collector" in block
    ]
    imports = "from opentelemetry import trace\nfrom opentelemetry.sdk.trace import TracerProvider\n"
    script = tmp_path / "sending.py"
    script.write_text(textwrap.dedent(SENDING).replace("{recipe}", imports + recipe))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        server.taken = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            done = subprocess.run(
                [sys.executable, str(script), f"http://127.0.0.1:{server.server_port}"],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        finally:
            server.shutdown()
            thread.join()
    assert (done.returncode, done.stderr) == (0, "")
    spans, names = [], set()
    for path, body in server.taken:
        if path == "/v1/traces":
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                assert {pair.key: pair.value.string_value for pair in resource.resource.attributes}[
                    "service.name"
                ] == "shop"
                spans += [span for scope in resource.scope_spans for span in scope.spans]
        else:
            assert path == "/v1/metrics"
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                names |= {metric.name for scope in resource.scope_metrics for metric in scope.metrics}
    [request] = [span for span in spans if span.name == "request"]
    charges = [span for span in spans if span.name == "charge"]
    assert [span.parent_span_id for span in charges] == [request.span_id] * 2
    assert [span.status.code for span in charges] == [0, 2]
    assert {"aiopool.jobs", "aiopool.size", "aiopool.job.run"} <= names


def test_the_collector_that_we_ship_listens_where_the_page_sends():
    """Its pipelines name parts that there are; no collector is at hand here to ask."""
    config = yaml.safe_load((OPERATIONS / "otel-collector.yml").read_text())
    for pipeline in config["service"]["pipelines"].values():
        for kind in ("receivers", "processors", "exporters"):
            assert set(pipeline[kind]) <= set(config[kind])
    page = (OPERATIONS.parent / "how-to" / "opentelemetry.md").read_text()
    assert f'endpoint: str = "http://{config["receivers"]["otlp"]["protocols"]["http"]["endpoint"]}"' in page
    scraping = (OPERATIONS / "prometheus.yml").read_text()
    assert config["exporters"]["prometheus"]["endpoint"] in scraping


def test_without_the_package_it_says_what_to_install():
    """The extra is named, with the line to write."""
    source = """
        import sys
        sys.modules["opentelemetry"] = None
        import aiopool.instrumentation.opentelemetry
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(source)], capture_output=True, text=True)
    assert run.returncode == 1
    assert 'pip install -e ".[otel]"' in run.stderr.splitlines()[-1]
