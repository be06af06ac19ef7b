"""A map is never shorter than its source in silence: only the source's own end is an end."""

import asyncio
import contextlib
import gc
import itertools
import weakref

import anyio
import pytest
from helpers import echo, forever, nap, now, virtual

from aiopool import Pool, PoolClosedError, QueueFullError, events
from aiopool.testing import advance, settle, wait_until

CONTROL = (StopIteration, StopAsyncIteration, GeneratorExit, asyncio.CancelledError)


async def plain_loop(stream):
    return [result async for result in stream]


async def with_block(stream):
    async with stream:
        return [result async for result in stream]


async def collect(stream):
    return await stream.collect()


CONSUMERS = (plain_loop, with_block, collect)


def values(results):
    return [getattr(result, "value", result) for result in results]


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("consume", CONSUMERS)
@pytest.mark.parametrize("error", [StopIteration, StopAsyncIteration, GeneratorExit])
def test_a_function_that_raises_what_would_end_a_loop(error, consume, ordered):
    """What the function raises is an error at the consumer, also if it looks like the end of an iteration."""

    @virtual
    async def main(isolation):
        async def fails(n):
            if n == 2:
                raise error("its own")
            return n

        def fails_in_a_thread(n):
            if n == 2:
                raise error("its own")
            return n

        async with Pool(2, isolation=isolation, on_error=lambda job, error: None) as pool:
            for function in (fails, fails_in_a_thread):
                with pytest.raises(RuntimeError) as info:
                    await consume(pool.map(function, range(5), ordered=ordered))
                causes = [info.value]
                while causes[-1].__cause__ is not None:
                    causes.append(causes[-1].__cause__)
                assert type(causes[-1]) is error
            results = await pool.map(fails, range(5), ordered=ordered, errors="yield").collect()
            assert len(results) == 5
            (failed,) = (result for result in results if not result.ok)
            assert failed.input == 2
            assert failed.job.exception() is failed.error

    for isolation in ("task", "scope"):
        main(isolation)


class Source:
    """A source that raises where it is told to."""

    def __init__(self, where, error):
        self.where, self.error, self.left = where, error, [0, 1, 2]
        self.closed = 0

    def check(self, where):
        if where == self.where and (where != "next" or not self.left):
            raise self.error


class PlainSource(Source):
    def __iter__(self):
        self.check("iter")
        return self

    def __next__(self):
        self.check("next")
        if not self.left:
            raise StopIteration
        return self.left.pop(0)


class AsyncSource(Source):
    def __aiter__(self):
        self.check("iter")
        return self

    async def __anext__(self):
        await asyncio.sleep(0)
        if self.where == "next" and not self.left and self.error is StopAsyncIteration:
            raise LookupError("a coroutine's own end cannot be told from the source's")
        self.check("next")
        if not self.left:
            raise StopAsyncIteration
        return self.left.pop(0)

    async def aclose(self):
        self.closed += 1
        self.check("close")


@pytest.mark.parametrize("errors", ["raise", "yield"])
@pytest.mark.parametrize("kind", [PlainSource, AsyncSource])
@pytest.mark.parametrize("where", ["iter", "next"])
@pytest.mark.parametrize("error", [*CONTROL, OSError])
def test_a_source_that_raises_anything(error, where, kind, errors):
    """The results of the items before come first, then an error: never a short list."""
    if where == "next" and kind is PlainSource and error is StopIteration:
        return  # that is its end

    @virtual
    async def main(isolation):
        for ordered in (True, False):
            async with Pool(2, isolation=isolation) as pool:
                got = []
                stream = pool.map(echo, kind(where, error), ordered=ordered, errors=errors)
                with pytest.raises((RuntimeError, OSError, LookupError)):
                    async for result in stream:
                        got.append(result)
                assert sorted(values(got)) == ([0, 1, 2] if where == "next" else [])
                with pytest.raises((RuntimeError, OSError, LookupError)):
                    await pool.map(echo, kind(where, error), ordered=ordered, errors=errors).collect()
                assert await pool.run(echo, 1) == 1

    for isolation in ("task", "scope"):
        main(isolation)


@pytest.mark.parametrize("error", [asyncio.CancelledError, OSError, GeneratorExit])
@pytest.mark.parametrize("ending", ["whole", "break", "closed"])
def test_a_source_that_fails_to_close(error, ending, caplog):
    """Its error is reported, once: not raised beside the results, nor as that of a task that nobody looks at."""

    @virtual
    async def main(isolation):
        caplog.clear()
        source = AsyncSource("close", error)
        async with Pool(2, isolation=isolation) as pool:
            if ending == "whole":
                assert await pool.map(echo, source).collect() == [0, 1, 2]
            elif ending == "break":
                async for _ in pool.map(echo, source, buffersize=1):
                    break
            else:
                async with pool.map(echo, source, buffersize=1) as stream:
                    await anext(stream)
            await settle()
        gc.collect()
        assert source.closed == 1
        (record,) = caplog.records
        assert record.levelname == "ERROR"
        assert "closing the source of map(echo, ...) failed" in record.getMessage()

    for isolation in ("task", "scope"):
        main(isolation)


@pytest.mark.parametrize("consume", CONSUMERS)
@pytest.mark.parametrize("pause", [0.0, 1.0, 1000.0])
def test_a_pool_that_closes_under_an_async_source(pause, consume):
    """The consumer is woken with an error, wherever the source is: the end of the pool is not that of the source."""

    @virtual
    async def main(isolation):
        closed = []

        async def rows():
            try:
                for n in itertools.count():
                    yield n
                    await asyncio.sleep(pause)
            finally:
                closed.append(True)

        async def work(n):
            await asyncio.sleep(0.7)
            return n

        for when in (0.0, 0.5, 2.2):
            for ordered in (True, False):
                closed.clear()
                async with Pool(2, 0, isolation=isolation) as pool:
                    task = asyncio.create_task(consume(pool.map(work, rows(), ordered=ordered)))
                    await advance(when)
                    await pool.shutdown(timeout=5)
                    with pytest.raises(PoolClosedError):
                        await asyncio.wait_for(task, 5)
                    assert len(closed) <= 1

    for isolation in ("task", "scope"):
        main(isolation)


@virtual
async def test_a_source_that_waits_when_its_pool_closes(isolation):
    """Whether it waits for its next item or for place, its consumer hears of the pool, and of nothing else."""

    async def rows():
        yield 1
        await forever()

    for source, buffersize in ((rows(), 2), (rows(), 1)):
        async with Pool(2, isolation=isolation) as pool:
            stream = pool.map(nap, source, buffersize=buffersize)
            first = asyncio.create_task(anext(stream))
            await settle()
            assert await pool.shutdown(timeout=5)
        assert await first is None
        with pytest.raises(PoolClosedError, match="is closed"):
            await anext(stream)


@virtual
async def test_a_source_that_keeps_its_cancel_to_itself(isolation):
    """What it yields when its stream was closed becomes no job; it is closed then."""
    ran, closed = [], []

    async def rows():
        try:
            yield 1
            with contextlib.suppress(asyncio.CancelledError):
                await forever()
            yield 2
        finally:
            closed.append(now())

    async def work(n):
        ran.append(n)

    async with Pool(2, isolation=isolation) as pool:
        async with pool.map(work, rows()) as stream:
            await anext(stream)
            await settle()
        assert closed == [0]
        await settle()
        assert ran == [1]
        assert pool.statistics().submitted == 1


@virtual
async def test_a_source_whose_clean_up_fails_after_its_stream_was_closed(isolation, caplog):
    """Nobody is there to be told: it is logged, with the name of the function."""

    async def rows():
        try:
            yield 1
            await forever()
        finally:
            raise KeyError("in the clean-up")

    async with Pool(2, isolation=isolation) as pool:
        async with pool.map(echo, rows()) as stream:
            assert await anext(stream) == 1
            await settle()
    [record] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "the source of map(echo, ...) failed, and nobody takes its results" in record.message
    assert "in the clean-up" in caplog.text


@virtual
async def test_a_source_that_cannot_be_closed(isolation):
    """An async iterator needs no `aclose`."""

    class Rows:
        def __init__(self):
            self.left = 3

        def __aiter__(self):
            return self

        async def __anext__(self):
            if not self.left:
                raise StopAsyncIteration
            self.left -= 1
            return self.left

    async with Pool(2, isolation=isolation) as pool:
        assert await pool.map(echo, Rows()).collect() == [2, 1, 0]
        async with pool.map(echo, Rows()) as stream:
            assert await anext(stream) == 2
            await settle()


@pytest.mark.parametrize("ordered", [True, False])
def test_a_loop_that_breaks_leaves_nothing(ordered):
    """Neither feeder nor open source outlives a loop that breaks; a job under way is reported when it fails."""

    @virtual
    async def main(isolation):
        closed, seen = [], []

        async def rows():
            try:
                for n in itertools.count():
                    yield n
            finally:
                closed.append(now())

        async def work(n):
            await asyncio.sleep(n)
            if n == 2:
                raise ValueError(n)

        async with Pool(9, isolation=isolation, on_error=lambda job, error: seen.append(now())) as pool:
            began, tasks = now(), len(asyncio.all_tasks())
            async for _ in pool.map(work, rows(), ordered=ordered, buffersize=5):
                break
            await settle()
            assert closed == [began]
            submitted = pool.statistics().submitted
            await advance(2)
            assert seen == [began + 2]
            await advance(10)
            assert pool.statistics().submitted == submitted <= 7
            assert pool.statistics().running == 0
            assert len(asyncio.all_tasks()) <= tasks + 9  # workers come with work
            assert not [task for task in asyncio.all_tasks() if "-map-" in task.get_name()]

    for isolation in ("task", "scope"):
        main(isolation)


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_failing_collect_leaves_no_cycle(asynchronous):
    """An error of a map is free as soon as it was handled, with all that it refers to, without the collector."""

    class OwnError(Exception):
        pass

    @virtual
    async def main(isolation):
        async def source():
            for n in range(9):
                yield n

        async def fails(n):
            raise OwnError(n)

        async def raises(consume, function, items):
            try:
                await consume(pool.map(function, items))
            except OwnError as error:
                return weakref.ref(error)

        def broken():
            yield 1
            raise OwnError

        async with Pool(2, isolation=isolation, on_error=lambda job, error: None) as pool:
            gc.collect()
            gc.disable()
            try:
                for consume in CONSUMERS:
                    gone = await raises(consume, fails, source() if asynchronous else range(9))
                    await wait_until(lambda gone=gone: gone() is None, timeout=1)
                    if not asynchronous:
                        gone = await raises(consume, echo, broken())
                        await wait_until(lambda gone=gone: gone() is None, timeout=1)
            finally:
                gc.enable()

    for isolation in ("task", "scope"):
        main(isolation)


@virtual
async def test_a_source_whose_error_nobody_takes_is_reported(isolation, caplog):
    """A consumer that leaves before the error of the source has come loses the results, and not the error."""

    def source():
        yield 1
        raise OSError("the source broke")

    async with Pool(2, isolation=isolation) as pool:
        async with pool.map(echo, source()) as stream:
            assert await anext(stream) == 1
    (record,) = caplog.records
    assert "the source of map(echo, ...) failed" in record.getMessage()
    assert "the source broke" in str(record.exc_info[1])


@virtual
async def test_counts(isolation):
    """A stream says how far it is: submitted, done, failed, running."""

    async def work(n):
        await asyncio.sleep(n)
        if n == 2:
            raise ValueError(n)

    async with Pool(2, isolation=isolation) as pool:
        for ordered in (True, False):
            stream = pool.map(work, [1, 2, 3, 4], ordered=ordered, errors="yield", buffersize=4)
            counts = []
            async for _ in stream:
                counts.append((stream.submitted, stream.done, stream.failed, stream.running))
            assert counts == [(4, 1, 0, 2), (4, 2, 1, 2), (4, 3, 1, 1), (4, 4, 1, 0)]


@virtual
async def test_a_job_that_is_cancelled_as_it_waits_for_room_is_counted_once(isolation):
    """The consumer gives up in the same turn: nothing is counted for the item, and it comes with the next call."""
    async with Pool(1, 0, isolation=isolation) as pool:
        await pool.submit(nap, 5)
        await settle()
        stream = pool.map(nap, [1, 2], buffersize=2)
        consumer = asyncio.create_task(anext(stream))
        await settle()
        job = pool.get_job(2)
        assert job.waiting_for == "admission"
        job.cancel()
        consumer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await consumer
        assert (stream.submitted, stream.done, stream.failed, stream.running) == (0, 0, 0, 0)
        assert await stream.collect() == [None, None]
        assert (stream.submitted, stream.done, stream.failed, stream.running) == (2, 2, 0, 0)


@virtual
async def test_the_wrong_loop_says_which_one_to_write(isolation):
    """`for` and `await` on a stream name what to write instead."""
    async with Pool(2, isolation=isolation) as pool:
        with pytest.raises(TypeError, match=r"async for result in pool\.map.*collect\(\)"):
            for _ in pool.map(echo, [1]):
                pass
        with pytest.raises(TypeError, match=r"await pool\.map\(\.\.\.\)\.collect\(\)"):
            await pool.map(echo, [1])


async def slow_to_end(*_):
    """A job, whose clean-up takes a second."""
    try:
        await asyncio.sleep(3600)
    finally:
        with anyio.CancelScope(shield=True):
            await asyncio.sleep(1)


@pytest.mark.parametrize("what", ["source", "jobs"])
def test_a_caller_that_is_cancelled_while_a_stream_closes(what):
    """The source hears of it, the jobs are waited for all the same; then the caller is cancelled."""

    @virtual
    async def main(isolation):
        closed = []

        async def source():
            yield 0
            try:
                await asyncio.sleep(3600)
            finally:
                closed.append(now())
                await asyncio.sleep(1)

        async with Pool(2, isolation=isolation) as pool:
            stream = pool.map(echo, source()) if what == "source" else pool.map(slow_to_end, range(2))
            reader = asyncio.create_task(anext(stream))
            await asyncio.sleep(0.1)
            reader.cancel()
            await asyncio.wait([reader])
            closing = asyncio.create_task(stream.aclose())
            await asyncio.sleep(0.5)
            closing.cancel()
            await asyncio.wait([closing])
            assert closing.cancelled()
            assert pool.statistics().running == 0
            assert len(closed) == (what == "source")
            assert not [task for task in asyncio.all_tasks() if "-map-" in task.get_name()]
            await stream.aclose()  # once more does nothing
        await pool.map(echo, []).aclose()  # it was never opened

    for isolation in ("task", "scope"):
        main(isolation)


@virtual
async def test_a_caller_that_is_cancelled_while_its_source_is_being_closed(isolation, caplog):
    """The clean-up of a source that waits is cancelled with the caller; that is no failure, and nothing is left."""
    log = []

    async def source():
        try:
            for number in range(100):
                yield number
        finally:
            log.append("closing")
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                log.append("cancelled")
                raise

    async with Pool(2, isolation=isolation) as pool:
        stream = pool.map(echo, source(), buffersize=3)
        assert await anext(stream) == 0
        await settle()
        assert not log  # the feeder waits for a place
        closing = asyncio.create_task(stream.aclose())
        await wait_until(lambda: log == ["closing"])
        assert not closing.done()
        closing.cancel()
        await asyncio.wait([closing])
        assert closing.cancelled()
        assert log == ["closing", "cancelled"]
        assert not [task for task in asyncio.all_tasks() if "-map-" in task.get_name()]
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
    assert not caplog.records


@pytest.mark.parametrize("error", [OSError, None])
def test_a_source_that_ends_while_the_pool_is_full_of_others(error):
    """The first item is asked for when there is room for no job: its end, or its error, is that of the stream."""

    @virtual
    async def main(isolation):
        def source():
            if error is not None:
                raise error
            yield from ()

        async with Pool(1, 0, isolation=isolation) as pool:
            await pool.submit(slow_to_end)
            results = pool.map(echo, source()).collect()
            if error is not None:
                with pytest.raises(error):
                    await results
            else:
                assert await results == []
            await pool.shutdown(timeout=0)

    for isolation in ("task", "scope"):
        main(isolation)


def test_a_source_that_fills_the_pool_itself():
    """To ask for an item takes the last place: the item waits, and is not lost."""

    @virtual
    async def main(isolation):
        async with Pool(1, 2, isolation=isolation) as pool:

            def source():
                for n in range(3):
                    with contextlib.suppress(QueueFullError):
                        while True:
                            pool.submit_nowait(asyncio.sleep, 1)
                    yield n

            assert await pool.map(echo, source()).collect() == [0, 1, 2]

    for isolation in ("task", "scope"):
        main(isolation)


@pytest.mark.parametrize("ordered", [True, False])
def test_a_listener_that_cancels_each_job_of_a_map(ordered):
    """As it is handed in: the stream has it at once, and waits for nothing."""

    @virtual
    async def main(isolation):
        async with Pool(1, isolation=isolation) as pool:

            def cancel(event):
                if event.job_id % 3:
                    pool.get_job(event.job_id).cancel()

            pool.listen(cancel, events.JobSubmitted)
            got = await pool.map(echo, range(20), ordered=ordered, errors="yield", buffersize=8).collect()
            assert len(got) == 20

    for isolation in ("task", "scope"):
        main(isolation)


@pytest.mark.parametrize("ordered", [True, False])
def test_a_listener_that_cancels_the_job_that_a_consumer_waits_for(ordered):
    """An asynchronous source goes on by itself: its consumer waits already, and has the result at once."""

    @virtual
    async def main(isolation):
        async def rows():
            await asyncio.sleep(1)
            yield 1
            await forever()

        async with Pool(1, isolation=isolation) as pool:
            pool.listen(lambda event: pool.get_job(event.job_id).cancel(), events.JobSubmitted)
            async with pool.map(echo, rows(), ordered=ordered, errors="yield") as stream:
                result = await asyncio.wait_for(anext(stream), 5)
                assert result.job.cancelled()
                assert now() == 1

    for isolation in ("task", "scope"):
        main(isolation)


@virtual
async def test_a_stream_that_is_closed_while_its_source_waits_for_room_withdraws_its_job(isolation):
    """Its job is withdrawn, and stays one that there was: nobody will come again for the item."""

    async def rows():
        yield 1

    async with Pool(1, 0, isolation=isolation) as pool:
        running = await pool.submit(nap, 5)
        stream = pool.map(echo, rows())
        consumer = asyncio.create_task(anext(stream))
        await settle()
        assert pool.statistics().waiting == 1
        consumer.cancel()
        await asyncio.wait([consumer])
        await stream.aclose()
        assert pool.statistics().waiting == 0
        assert pool.jobs() == [running]
        assert now() == 0
        assert stream.submitted == stream.done == 1


def test_a_feeder_whose_loop_is_gone_ends_where_it_is(isolation, caplog):
    """What the collector does to it: the source is not asked for anything, and nothing is told."""
    closed = []

    class Rows(AsyncSource):
        async def __anext__(self):
            await forever()

        async def aclose(self):
            closed.append(True)

    async def begin():
        await pool.__aenter__()
        consumer = asyncio.create_task(anext(stream))
        await asyncio.sleep(0)
        [feeder] = [task for task in asyncio.all_tasks() if "-map-" in task.get_name()]
        await asyncio.sleep(0)
        return consumer, feeder

    async def end():
        with pytest.raises(StopAsyncIteration):
            await consumer
        feeder.cancel()
        await asyncio.wait([feeder])
        await pool.shutdown()

    pool = Pool(1, isolation=isolation)
    stream = pool.map(echo, Rows("nowhere", None))
    with asyncio.Runner() as runner:
        consumer, feeder = runner.run(begin())
        feeder.get_coro().close()
        assert closed == []
        runner.run(end())
        assert isinstance(feeder.exception(), RuntimeError)  # of asyncio, for a coroutine that was closed
    assert not caplog.records
