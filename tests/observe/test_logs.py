"""Which line belongs to which job; each fault once; and no name forges a line."""

import asyncio
import contextlib
import io
import json
import logging
import logging.handlers
import queue
import re
import subprocess
import sys
import textwrap
import threading

import pytest
import structlog
from helpers import echo, fail, nap, stubborn, virtual
from hypothesis import given
from hypothesis import strategies as st

import aiopool
from aiopool import Pool, Retry, events
from aiopool.instrumentation.logging import (
    JobFieldsFilter,
    add_job_fields,
    configure_logging,
    job_fields,
    reset_logging,
)
from aiopool.settings import PoolSettings
from aiopool.testing import run_virtual, settle

FIELDS = ("job_id", "job", "attempt", "worker", "pool")
mine = structlog.get_logger("mine")
stdlib = logging.getLogger("some.package")


@contextlib.contextmanager
def alone():
    """Without pytest's own handlers: halves of characters are more than its reports can carry."""
    root = logging.getLogger()
    others, root.handlers = root.handlers, []
    try:
        yield
    finally:
        root.handlers = others


@pytest.fixture
def log():
    """A log in JSON, in memory: call it for its lines so far, parsed; everything is undone afterwards."""
    stream = io.StringIO()
    configure_logging("DEBUG", renderer="json", stream=stream)
    yield lambda *events: [
        line for line in map(json.loads, stream.getvalue().splitlines()) if not events or line["event"] in events
    ]
    reset_logging()


@contextlib.contextmanager
def console(level="DEBUG", **options):
    """The log as a terminal has it."""
    stream = io.StringIO()
    configure_logging(level, stream=stream, **options)
    try:
        yield stream
    finally:
        reset_logging()


def fields(line):
    return {name: line[name] for name in FIELDS if name in line}


def speak(text="hello"):
    mine.info(text, by="structlog")
    stdlib.info(text, extra={"by": "logging"})


async def speaker(text="hello"):
    speak(text)
    await asyncio.sleep(0.01)
    speak(text)


# -- the fields --------------------------------------------------------------------------------------------------------


@virtual
async def test_every_line_inside_of_a_job_says_which(isolation, log):
    """The user's own lines, by structlog and by logging, before and after an await."""
    async with Pool(2, isolation=isolation, name="shop") as pool:
        await pool.run(speaker)
        await (await pool.with_options(id="a-17", name="greet").submit(speaker, "named"))
    lines = log("hello")
    assert [line["by"] for line in lines] == ["structlog", "logging"] * 2
    assert [fields(line) for line in lines] == [
        {"job_id": 1, "job": "speaker", "attempt": 1, "worker": lines[0]["worker"], "pool": "shop"}
    ] * 4
    assert {(line["job_id"], line["job"]) for line in log("named")} == {("a-17", "greet")}


def test_lines_in_threads_say_it_too(new_pool, log):
    """A plain function in a thread, and a thread that a job starts with its context."""

    async def threads():
        await asyncio.to_thread(speak, "to_thread")

    async def main():
        async with new_pool(2, name="shop") as pool:
            await pool.run(speak, "offloaded")
            await pool.run(threads)

    asyncio.run(main())
    for text, id in (("offloaded", 1), ("to_thread", 2)):
        assert [(line["job_id"], line["pool"], line["attempt"]) for line in log(text)] == [(id, "shop", 1)] * 2
        assert all(isinstance(line["worker"], int) for line in log(text))


@virtual
async def test_attempts_and_nested_jobs_and_their_tasks(isolation, log):
    """Each attempt has its number; a job inside of a job has its own fields; a task of a job has the job's."""
    async with Pool(1, isolation=isolation) as pool:

        async def twice():
            speak("attempt")
            if aiopool.current_job().attempt == 1:
                raise ValueError

        async def outer():
            speak("before")
            await pool.run(speaker, "inner")
            await asyncio.create_task(speaker("task"))
            speak("after")

        await (await pool.with_options(retry=Retry(attempts=2)).submit(twice))
        await pool.run(outer)
    assert [line["attempt"] for line in log("attempt")] == [1, 1, 2, 2]
    ids = {text: {line["job_id"] for line in log(text)} for text in ("before", "inner", "task", "after")}
    assert ids == {"before": {2}, "inner": {3}, "task": {2}, "after": {2}}


@virtual
async def test_nothing_leaks(isolation, log):
    """Not to the submitter, not to the next job, not to callbacks of the loop, not to the context of structlog."""

    async def binder():
        structlog.contextvars.bind_contextvars(customer="secret")
        speak("bound")

    async with Pool(1, isolation=isolation) as pool:
        asyncio.get_running_loop().call_later(0.5, speak, "callback")
        job = await pool.submit(binder)
        await job
        speak("submitter")
        await pool.run(speaker, "next")
        await asyncio.sleep(1)
        assert job_fields() == {}
    assert all(line["customer"] == "secret" for line in log("bound") if line["by"] == "structlog")
    for text in ("submitter", "callback"):
        assert len(log(text)) == 2
        assert all(fields(line) == {} for line in log(text))
    assert {line["job_id"] for line in log("next")} == {2}
    assert not any("customer" in line for line in log("next", "submitter", "callback"))


@virtual
async def test_what_the_line_says_itself_is_kept(isolation, log):
    """The user's own field of the same name wins."""

    async def own():
        mine.info("own", job="mine", pool="swimming")
        stdlib.info("own", extra={"job": "mine", "pool": "swimming"})

    async with Pool(1, isolation=isolation) as pool:
        await pool.run(own)
    assert [(line["job"], line["pool"], line["job_id"]) for line in log("own")] == [("mine", "swimming", 1)] * 2


# -- what the pool says ------------------------------------------------------------------------------------------------


@virtual
async def test_success_is_told_at_debug_only(isolation):
    """At INFO a successful program says that its pools open and close; without the call it says nothing."""
    for level, expected in (
        ("DEBUG", ["pool opened", "job submitted", "worker started", "job started", "job succeeded", "pool closing"]),
        ("INFO", ["pool opened", "pool closing"]),
        ("WARNING", []),
    ):
        stream = io.StringIO()
        configure_logging(level, renderer="json", stream=stream)
        try:
            async with Pool(1, isolation=isolation) as pool:
                await settle()
                await pool.run(echo)
            lines = [json.loads(line) for line in stream.getvalue().splitlines()]
            assert [line["event"] for line in lines][: len(expected)] == expected
            assert all(line["pool"] == "pool" for line in lines)
            assert all(set(FIELDS) <= set(line) for line in lines if line["event"].startswith("job"))
            assert lines == [] or lines[-1]["event"] == "pool closed"
        finally:
            reset_logging()


@virtual
async def test_what_is_not_written_is_not_told(isolation):
    """At INFO nobody hears of jobs that succeed: no event is built for a line that would be thrown away."""
    with console("INFO"):
        async with Pool(1, isolation=isolation) as pool:
            hearers = pool._state.engine.observers._emitter.listeners_for
            for kind in (events.JobSubmitted, events.JobStarted, events.JobSucceeded):
                assert hearers(kind) == ()
            assert hearers(events.JobFailed) != ()


def test_silent_by_default(child):
    """Without a call a program is silent about success; a failure that nobody awaits comes once, with a traceback."""
    process = child(
        """
        import asyncio, aiopool
        async def fine(): ...
        async def broken(): raise ValueError("boom")
        async def main():
            async with aiopool.Pool(2) as pool:
                for _ in range(10):
                    await pool.run(fine)
                print("fine until here")
                await pool.submit(broken)
        asyncio.run(main())
        """
    )
    out, err = process.communicate(timeout=60)
    assert out == "fine until here\n"
    assert err.count("Traceback") == err.count("ValueError: boom") == 1
    assert "nobody was awaiting it" in err


@pytest.mark.parametrize("renderer", ["console", "json"])
@pytest.mark.parametrize("level", ["DEBUG", "ERROR"])
def test_a_failure_that_nobody_awaits_comes_exactly_once(renderer, level, new_pool):
    """Whatever is configured, with all fields; one that somebody awaits is his, and one for `on_error` is its."""
    stream = io.StringIO()
    configure_logging(level, renderer=renderer, stream=stream)

    async def broken():
        raise ValueError("boom")

    async def main():
        async with new_pool(2) as pool:
            job = await pool.with_options(id="bad").submit(broken)
            await pool.join()
            assert job.done()

    async def handled():
        async with new_pool(2, on_error=lambda job, error: None) as pool:
            await pool.submit(broken)
            with contextlib.suppress(ValueError):
                await pool.run(broken)

    try:
        asyncio.run(main())
        text = stream.getvalue()
        assert text.count("ValueError: boom") == text.count("Traceback") == 1
        assert text.count("nobody was awaiting it") == 1
        line = next(line for line in text.splitlines() if "nobody was" in line)
        assert re.search(r"\bbad\b", line)
        if renderer == "json":
            assert {**json.loads(line), "worker": 0}.items() >= {
                "job_id": "bad",
                "attempt": 1,
                "worker": 0,
                "pool": "pool",
                "level": "error",
            }.items()
        stream.truncate(0)
        asyncio.run(handled())
        assert "Traceback" not in stream.getvalue()
        assert "nobody was" not in stream.getvalue()
    finally:
        reset_logging()


@virtual
async def test_every_way_to_end_has_its_line(isolation, log):
    """Cancelled, timed out, tried again, leaked: with the reason, at its level, each once."""
    async with Pool(1, isolation=isolation, cancel_grace=0.1) as pool:
        with contextlib.suppress(TimeoutError):
            await (await pool.with_options(timeout=1).submit(nap, 5))
        job = await pool.submit(nap, 5)
        await settle()
        await pool.cancel(job.id, "enough")
        with contextlib.suppress(ValueError):
            await (await pool.with_options(retry=Retry(attempts=2)).submit(fail))
        leaking = await pool.submit(stubborn)
        await settle()
        await pool.cancel(leaking.id)
        pool.resize(2)
        async with pool.paused():
            pass
        report = await pool.shutdown(timeout=0, grace=0)
        assert report.leaked
    levels = {line["event"].split(",")[0]: line["level"] for line in log()}
    assert (
        levels.items()
        >= {
            "job timed out": "info",
            "job cancelled": "info",
            "job failed": "info",
            "pool resized": "info",
            "pool paused": "info",
            "pool resumed": "info",
        }.items()
    )
    [line] = log("job failed, and is tried again")
    assert (line["level"], line["attempt"], line["error"]) == ("warning", 1, "ValueError")
    assert log("job cancelled")[0]["reason"] == "enough"
    leaks = [line for line in log() if "it leaked" in line["event"]]
    assert len(leaks) == 1
    assert "in stubborn" in leaks[0]["event"]
    assert fields(leaks[0])["job"] == "stubborn"
    await asyncio.sleep(4000)


# -- no forged lines ---------------------------------------------------------------------------------------------------

HOSTILE = [
    "x\n2026-01-01T00:00:00Z [error    ] forged",
    "x\r\n2026-01-01T00:00:00Z [error    ] forged",
    "x\r2026-01-01 forged",
    "\x1b[2K\x1b[1Gforged",
    'x", "level": "forged',
    "x\u20282026 forged",
    "nul\0",
    "half \ud800 of one",
    "\u202eforged",
    "y" * 1_000_000,
    "\n" * 50_000,  # each of them a line that is looked at
]
A_LINE = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z \[\w+ *\] |    |Traceback |$")


async def speak_and_raise(text):
    speak()
    raise ValueError(text)


def hostile_run(text):
    """Jobs whose names, ids, groups, reasons and errors are a text."""

    async def main():
        async with Pool(1, name=text, cancel_grace=0) as pool:
            view = pool.with_options(name=text, id=text, group=text, metadata={text: [text]})
            await (await view.submit(speak_and_raise, text)).wait()
            await view.submit(speak_and_raise, text)
            await pool.join()
            job = await view.submit(nap, 1)
            job.cancel(text)
            await (await pool.with_options(name=text, retry=Retry(attempts=2)).submit(speak_and_raise, text)).wait()
            view = pool.with_options(name=text)
            job = await view.submit(stubborn)
            await settle()
            await pool.cancel(job.id, text)

    run_virtual(main)


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text)[:30])
def test_no_name_forges_a_line(text):
    """Whatever jobs and pools are called, every line on the terminal begins where the log began one."""
    with alone(), console() as stream:
        hostile_run(text)
    written = stream.getvalue()
    lines = written.split("\n")
    assert sum("hello" in line for line in lines) >= 4
    for line in lines:
        assert A_LINE.match(line), ascii(line[:200])
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202e\ud800-\udfff]", line), ascii(line[:200])
    written.encode()


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text)[:30])
def test_no_name_forges_a_json_line(text):
    """As JSON, too: every line is one object, with the levels that we gave."""
    with alone(), console(renderer="json") as stream:
        hostile_run(text)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert {line["level"] for line in lines} == {"debug", "info", "warning", "error"}
    assert all(len(str(line["job"])) <= 1000 for line in lines if "job" in line)
    errors = [line["error"] for line in lines if "error" in line]
    assert errors
    assert all(len(error) <= 500 for error in errors)


@given(st.text(st.characters(), min_size=1, max_size=30))
def test_any_text_stays_in_its_line(text):
    """The guard of the console, for any text in any field."""
    with alone(), console() as stream:
        stdlib.warning("%s", text, extra={"note": text})
        mine.warning(text, note=text)
        stdlib.error("named", extra={"job": text, "job_id": text, "pool": text})
    for line in stream.getvalue().rstrip("\n").split("\n"):
        assert A_LINE.match(line), ascii(line)


class Talker:
    """An object whose words go over several lines."""

    def __init__(self, text):
        self.text = text

    def __repr__(self):
        return self.text


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text)[:30])
def test_no_object_and_no_field_forges_a_line(text):
    """Values that are no text, events that are none, and the names of fields: they are one line as well."""
    with alone(), console() as stream:
        stdlib.warning(Talker(text), extra={"note": Talker(text), f"a{text}": 1})
        mine.warning(Talker(text), note=Talker(text), nested=[Talker(text)], **{f"a{text}": 1})
        logging.getLogger(f"a.{text}").warning("named")
    written = stream.getvalue()
    assert written.count("[warning") == 3
    for line in written.rstrip("\n").split("\n"):
        assert A_LINE.match(line), ascii(line[:200])
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202e\ud800-\udfff]", line), ascii(line[:200])


@pytest.mark.parametrize("renderer", ["console", "json"])
def test_no_extra_takes_the_place_of_the_message(renderer):
    """A library that calls a field of its own `event` does not lose what it says; both are in the line."""
    with alone(), console(renderer=renderer) as stream:
        stdlib.warning("the message", extra={"event": "click", "level": "deep", "timestamp": "never", "logger": "x"})
    [line] = stream.getvalue().splitlines()
    for text in ("the message", "click", "deep", "never", "some.package", "warning"):
        assert text in line


class Broken(logging.Handler):
    """A handler that raises."""

    def emit(self, record):
        raise OSError("the disk is full")


@pytest.mark.leaves_behind("the loop is told of the handler")
@virtual(leaks=False)
async def test_a_log_that_raises_hurts_no_job(isolation, capsys):
    """Outcomes, workers and listeners are as they were."""
    told = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
    logger, broken = logging.getLogger("aiopool"), Broken()
    logger.addHandler(broken)
    try:
        async with Pool(1, isolation=isolation, cancel_grace=0.1) as pool:
            pool.listen(lambda event: 1 / 0)
            job = await pool.submit(fail)
            await pool.join()
            assert job.status == "failed"
            leaking = await pool.submit(stubborn)
            await settle()
            assert (await pool.cancel(leaking.id)).leaked
            pool.resize(2)
            assert await pool.run(echo, 1) == 1
            assert pool.statistics().restarts == 0
            await pool.shutdown(timeout=0, grace=0)
        await asyncio.sleep(4000)
    finally:
        logger.removeHandler(broken)
    assert "the disk is full" in capsys.readouterr().err + str(told)


def test_other_handlers_may_be_there(capsys):
    """A handler with a formatter of its own leaves its marks on a record: no line of ours shows them."""
    other = logging.StreamHandler()
    other.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    stdlib.addHandler(other)
    try:
        with console(renderer="json") as stream:
            stdlib.warning("hello", extra={"user": 7})
    finally:
        stdlib.removeHandler(other)
    assert set(json.loads(stream.getvalue())) == {"event", "user", "logger", "level", "timestamp"}


def test_a_filter_elsewhere_leaves_no_fields_of_no_job():
    """A `JobFieldsFilter` of the user's on another handler marks each record: a line outside of jobs stays clean."""
    other = logging.StreamHandler(io.StringIO())
    other.addFilter(JobFieldsFilter())
    stdlib.addHandler(other)
    try:
        with console(renderer="json") as stream:
            stdlib.warning("hello")
    finally:
        stdlib.removeHandler(other)
    assert set(json.loads(stream.getvalue())) == {"event", "logger", "level", "timestamp"}


# -- switching on and off ----------------------------------------------------------------------------------------------


def test_configuring_again_and_undoing():
    """One handler of ours, however often; what was there before is there afterwards."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    first, second = io.StringIO(), io.StringIO()
    configure_logging(stream=first)
    configure_logging(stream=first)
    configure_logging("WARNING", renderer="json", stream=second)
    assert len(root.handlers) == len(before) + 1
    stdlib.info("not written")
    stdlib.warning("written")
    mine.warning("written")
    assert first.getvalue() == ""
    assert [json.loads(line)["event"] for line in second.getvalue().splitlines()] == ["written"] * 2
    reset_logging()
    reset_logging()
    assert (list(root.handlers), root.level) == (before, level)
    assert not structlog.is_configured()


@virtual
async def test_pools_that_are_open_are_heard_at_once(isolation):
    """The call may come before or after the opening; undone, a pool pays nothing any more."""
    async with Pool(1, isolation=isolation) as pool:
        with console() as stream:
            await pool.run(echo)
        assert "job succeeded" in stream.getvalue()
        assert pool._state.engine.observers is None
        written = stream.getvalue()
        await pool.run(echo)
        assert stream.getvalue() == written


@virtual
async def test_settings_may_ask_for_logs(isolation, capsys):
    """A pool that is made of settings with `logs` has them."""
    settings = PoolSettings.from_dict({"size": 1, "isolation": isolation, "logs": "json", "log_level": "debug"})
    try:
        async with settings.create_pool() as pool:
            await pool.run(echo)
        assert [line["event"] for line in map(json.loads, capsys.readouterr().err.splitlines())][-1] == "pool closed"
    finally:
        reset_logging()


def test_what_is_no_level_and_no_renderer():
    """Refused, with what is allowed; nothing is changed."""
    handlers = list(logging.getLogger().handlers)
    with pytest.raises(TypeError, match=r"sys\.stdout"):
        configure_logging(stream=3)
    with pytest.raises(ValueError, match="DEBUG"):
        configure_logging("LOUD")
    with pytest.raises(ValueError, match='"console" or "json"'):
        configure_logging(renderer="xml")
    with pytest.raises(ValueError, match="level=True"):
        configure_logging(True)
    assert logging.getLogger().handlers == handlers


def test_colors_are_for_terminals():
    """By default a file gets none; one may ask for them."""
    with console() as stream:
        stdlib.error("plain")
    assert "\x1b" not in stream.getvalue()
    with console(colors=True) as stream:
        stdlib.error("colored")
    assert "\x1b[" in stream.getvalue()


# -- parts for a configuration of one's own ----------------------------------------------------------------------------


@virtual
async def test_a_filter_for_ones_own_handlers(isolation):
    """`JobFieldsFilter`: the fields can be named in a format, inside of jobs and outside; also behind a queue."""
    stream, records = io.StringIO(), queue.SimpleQueue()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(job_id)s %(job)s %(attempt)s %(pool)s %(message)s"))
    waiting = logging.handlers.QueueHandler(records)
    waiting.addFilter(JobFieldsFilter())
    stdlib.addHandler(waiting)
    stdlib.setLevel(logging.INFO)
    try:
        async with Pool(1, isolation=isolation) as pool:
            await pool.run(speaker)
            speak("outside")
    finally:
        stdlib.removeHandler(waiting)
        stdlib.setLevel(logging.NOTSET)

    def write():
        while not records.empty():
            handler.handle(records.get())

    thread = threading.Thread(target=write)
    thread.start()
    thread.join()
    assert stream.getvalue().splitlines() == [
        "1 speaker 1 pool hello",
        "1 speaker 1 pool hello",
        "None None None None outside",
    ]


@virtual
async def test_a_processor_for_ones_own_structlog(isolation):
    """`add_job_fields` in a chain of the user's."""
    lines = []

    def keep(logger, method, event):
        lines.append(dict(event))
        raise structlog.DropEvent

    structlog.configure(processors=[add_job_fields, keep])
    try:
        async with Pool(1, isolation=isolation) as pool:
            await pool.run(speaker)
            speak("outside")
    finally:
        structlog.reset_defaults()
    assert [set(FIELDS) <= set(line) for line in lines] == [True, True, False]


def test_the_fields_as_a_dict(new_pool):
    """`job_fields()`, for whatever else writes."""

    async def look():
        return job_fields()

    async def main():
        async with new_pool(1, name="shop") as pool:
            return await pool.run(look), job_fields()

    inside, outside = asyncio.run(main())
    assert inside == {"job_id": 1, "job": "test_the_fields_as_a_dict.<locals>.look", "attempt": 1} | {
        "worker": inside["worker"],
        "pool": "shop",
    }
    assert outside == {}


def test_structlog_is_loaded_when_it_is_asked_for():
    """`import aiopool` and a running pool do without it."""
    source = """
        import asyncio, sys, aiopool
        async def main():
            async with aiopool.Pool(1) as pool:
                await pool.run(asyncio.sleep, 0)
        asyncio.run(main())
        print("structlog" in sys.modules, end=" ")
        from aiopool.instrumentation.logging import configure_logging
        configure_logging()
        print("structlog" in sys.modules)
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(source)], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "True"]


def test_a_stream_need_not_tell_whether_it_is_a_terminal():
    """Whatever has `write` will do, a tee or a socket's file; it gets plain lines."""

    class Tee:
        def __init__(self):
            self.text = ""

        def write(self, text):
            self.text += text

    tee = Tee()
    configure_logging(stream=tee)
    try:
        logging.getLogger("shop").warning("low on tea")
    finally:
        reset_logging()
    assert "low on tea" in tee.text
    assert "\x1b" not in tee.text
