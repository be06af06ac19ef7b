"""`map`: lazy, bounded, a stream."""

import asyncio
import itertools
import weakref

import pytest
from helpers import echo, nap, now, virtual

from aiopool import JobCancelledError, JobOptions, MapResult, Pool, PoolClosedError, Retry, current_job
from aiopool.testing import advance, settle


async def double(n):
    await asyncio.sleep(1 + n % 3)
    return 2 * n


async def second(n):
    await asyncio.sleep(1)
    return n


async def odd_fails(n):
    await asyncio.sleep(1)
    if n % 2:
        raise ValueError(n)
    return n


async def numbers(pulled=None, pause=0.0, closed=None):
    """An endless asynchronous source."""
    try:
        for n in itertools.count():
            if pulled is not None:
                pulled.append(n)
            await asyncio.sleep(pause)
            yield n
    finally:
        if closed is not None:
            closed.append(True)


def counting(pulled):
    """An endless plain source."""
    for n in itertools.count():
        pulled.append(n)
        yield n


@virtual
async def test_in_order(isolation):
    """`ordered=True`: results in the order of the items, whichever job ends first; `collect` gives a list."""
    async with Pool(3, isolation=isolation) as pool:
        assert await pool.map(double, range(20)).collect() == [2 * n for n in range(20)]
        async with pool.map(double, range(5)) as results:
            assert [result async for result in results] == [0, 2, 4, 6, 8]
        assert [result async for result in pool.map(double, range(5))] == [0, 2, 4, 6, 8]


@virtual
async def test_as_they_come(isolation):
    """`ordered=False`: results as they come, each once."""
    async with Pool(3, isolation=isolation) as pool:
        results = [result async for result in pool.map(nap_and_echo, [3, 1, 2], ordered=False)]
        assert results == [1, 2, 3]
        many = await pool.map(double, range(50), ordered=False).collect()
        assert sorted(many) == [2 * n for n in range(50)]


async def nap_and_echo(seconds):
    await asyncio.sleep(seconds)
    return seconds


@virtual
async def test_nothing_happens_before_the_first_result_is_asked_for(isolation):
    """Lazy: making a stream takes no item and starts no job."""
    pulled = []
    async with Pool(2, isolation=isolation) as pool:
        pool.map(echo, counting(pulled))
        await settle()
        assert not pulled
        assert await pool.map(echo, []).collect() == []


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("asynchronous", [True, False])
def test_an_endless_source(ordered, asynchronous):
    """Between the source and a slow consumer there are never more than `buffersize` items."""

    @virtual
    async def main(isolation):
        pulled = []
        async with Pool(2, 3, isolation=isolation) as pool:
            source = numbers(pulled) if asynchronous else counting(pulled)
            async with pool.map(echo, source, buffersize=4, ordered=ordered) as results:
                taken = 0
                async for _ in results:
                    taken += 1
                    await advance(1)
                    # The feeder of an asynchronous source holds one item more, until there is place for its job.
                    assert len(pulled) <= taken + 4 + asynchronous
                    if taken == 50:
                        break
        assert len(pulled) <= 50 + 4 + asynchronous

    for isolation in ("task", "scope"):
        main(isolation)


@pytest.mark.parametrize("asynchronous", [True, False])
def test_the_default_of_buffersize(asynchronous):
    """By default twice the size is ahead, so that the workers always have something to do."""

    @virtual
    async def main(isolation):
        pulled = []
        async with Pool(3, isolation=isolation) as pool:
            source = numbers(pulled) if asynchronous else counting(pulled)
            async with pool.map(second, source, ordered=False) as results:
                async for _ in results:
                    break
                assert 6 <= len(pulled) <= 8

    for isolation in ("task", "scope"):
        main(isolation)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("asynchronous", [True, False])
def test_breaking_out(ordered, asynchronous):
    """Leaving the block cancels the rest, waits for its end, and closes an asynchronous source, at once."""

    @virtual
    async def main(isolation):
        closed, ended = [], []

        async def slow(n):
            try:
                await asyncio.sleep(1 if n < 2 else 100)
            finally:
                ended.append(n)
            return n

        async with Pool(2, isolation=isolation) as pool:
            source = numbers(closed=closed) if asynchronous else itertools.count()
            async with pool.map(slow, source, ordered=ordered) as results:
                async for _ in results:
                    break
            assert now() == 1
            assert closed == [True] * asynchronous
            assert pool.jobs() == []
            assert pool.statistics().busy == 0
            assert len(ended) >= 2
            assert [result async for result in results] == []

    for isolation in ("task", "scope"):
        main(isolation)


@virtual
async def test_a_closed_stream_lets_go_of_its_source(isolation):
    """A generator that nobody else holds ends with the block; one that is somebody's goes on where it was."""
    closed = []

    def source():
        try:
            yield from itertools.count()
        finally:
            closed.append(True)

    async with Pool(1, isolation=isolation) as pool:
        async with pool.map(double, source(), buffersize=2) as results:
            assert await anext(results) == 0
        assert closed == [True]
        mine = source()
        async with pool.map(double, mine, buffersize=2) as results:
            assert await anext(results) == 0
        assert closed == [True]
        assert next(mine) == 2
        with pytest.raises(ValueError):
            async for _ in pool.map(odd_fails, source()):
                pass
        del mine
        assert closed == [True] * 3


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_consumer_that_is_cancelled_or_times_out(asynchronous):
    """A consumer that is cancelled, or runs into a time limit, leaves no job and no source behind."""

    @virtual
    async def main(isolation):
        closed = []
        async with Pool(2, isolation=isolation) as pool:

            async def consume():
                source = numbers(closed=closed) if asynchronous else itertools.count()
                async with pool.map(nap, source) as results:
                    async for _ in results:
                        await asyncio.sleep(100)

            with pytest.raises(TimeoutError):
                async with asyncio.timeout(3):
                    await consume()
            assert pool.jobs() == []
            task = asyncio.create_task(consume())
            await advance(0.5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert pool.jobs() == []
            assert closed == [True, True] * asynchronous

    for isolation in ("task", "scope"):
        main(isolation)


@pytest.mark.parametrize("ordered", [True, False])
def test_a_bare_loop_that_breaks_lets_its_jobs_run(ordered):
    """A bare `async for` cannot know that it was left: what is under way runs on, and its source ends with the pool."""

    @virtual
    async def main(isolation):
        closed = []
        async with Pool(2, isolation=isolation) as pool:
            async for _ in pool.map(second, numbers(closed=closed), ordered=ordered):
                break
            await advance(5)
            assert pool.statistics().running == 0
        assert pool.statistics().cancelled == 0
        await settle()
        assert closed == [True]

    for isolation in ("task", "scope"):
        main(isolation)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("errors", ["raise", "yield"])
def test_a_bare_loop_that_breaks_loses_no_failure(ordered, errors):
    """Nobody will take what comes after the break: a failure reaches the error sink, once."""

    @virtual
    async def main(isolation):
        seen = []

        async def nap(n):
            await asyncio.sleep(n)
            if n in (2, 4):
                raise ValueError(n)

        async with Pool(5, isolation=isolation, on_error=lambda job, error: seen.append(str(error))) as pool:
            async for _ in pool.map(nap, [1, 2, 3, 4, 5], ordered=ordered, errors=errors):
                break
            await advance(10)
            assert seen == ["2", "4"]
        assert seen == ["2", "4"]

    for isolation in ("task", "scope"):
        main(isolation)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize("bare", [True, False])
def test_the_first_error_ends_it(ordered, asynchronous, bare):
    """`errors="raise"`: the consumer gets the first error as it is; the rest is cancelled, in a bare loop too."""

    @virtual
    async def main(isolation):
        async def items():
            for n in range(100):
                yield n

        async with Pool(2, isolation=isolation, on_error=lambda job, error: None) as pool:
            got = []
            stream = pool.map(odd_fails, items() if asynchronous else range(100), ordered=ordered)
            with pytest.raises(ValueError, match="1"):
                if bare:
                    async for result in stream:
                        got.append(result)
                else:
                    async with stream:
                        async for result in stream:
                            got.append(result)
            assert got == [0]
            await settle()
            assert pool.jobs() == []
            assert now() == 1
            assert [result async for result in stream] == []

    for isolation in ("task", "scope"):
        main(isolation)


@pytest.mark.parametrize("ordered", [True, False])
def test_errors_as_results(ordered):
    """`errors="yield"`: one `MapResult` for each item, failed ones too, with the item beside it."""

    @virtual
    async def main(isolation):
        async with Pool(2, isolation=isolation, retry=Retry(attempts=2, delay=0)) as pool:
            results = await pool.map(odd_fails, range(6), ordered=ordered, errors="yield").collect()
            assert all(type(result) is MapResult for result in results)
            if ordered:
                assert [result.input for result in results] == list(range(6))
            assert sorted(result.input for result in results if result.ok) == [0, 2, 4]
            for result in results:
                if result.ok:
                    assert (result.value, result.error, result.attempts) == (result.input, None, 1)
                else:
                    assert isinstance(result.error, ValueError)
                    assert (result.error.args, result.value, result.attempts) == ((result.input,), None, 2)
                assert result.seconds == 1

    for isolation in ("task", "scope"):
        main(isolation)


@virtual
async def test_a_cancelled_job_is_an_error_of_its_item(isolation):
    """A job of a stream that somebody cancels is that item's error, in its place."""
    async with Pool(2, isolation=isolation) as pool:
        stream = pool.map(nap_and_echo, [1, 2, 3, 4], errors="yield")
        first = await anext(stream)
        pool.jobs()[-1].cancel("by hand")
        rest = [result async for result in stream]
        assert first.ok
        assert [result.input for result in rest] == [2, 3, 4]
        assert [type(result.error) for result in rest if not result.ok] == [JobCancelledError]


@virtual
async def test_failures_that_the_consumer_did_not_take_are_reported(isolation):
    """What fails unseen, before the stream is closed or while it is, is reported, each once."""
    seen = []

    async def bad(n):
        try:
            await asyncio.sleep(1 if n < 2 else 50)
        finally:
            if n:
                raise ValueError(n)

    async with Pool(3, isolation=isolation, on_error=lambda job, error: seen.append(error.args[0])) as pool:
        async with pool.map(bad, range(3), ordered=False) as results:
            assert await anext(results) is None
            await advance(1)
        assert sorted(seen) == [1, 2]


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_source_that_raises(asynchronous):
    """Results of the items before come first, then the source's own error; the workers are fine."""

    @virtual
    async def main(isolation):
        def plain():
            yield from range(3)
            raise OSError("source")

        async def awaited():
            for n in range(3):
                yield n
            raise OSError("source")

        async with Pool(2, isolation=isolation) as pool:
            got = []
            with pytest.raises(OSError, match="source"):
                async for result in pool.map(double, awaited() if asynchronous else plain()):
                    got.append(result)
            assert got == [0, 2, 4]
            assert await pool.run(echo, 1) == 1

    for isolation in ("task", "scope"):
        main(isolation)


@virtual
async def test_a_slow_source_does_not_keep_results_back(isolation):
    """Each result is there as soon as its job is done, though the source takes its time for the next item."""
    moments = []
    async with Pool(2, isolation=isolation) as pool:
        async with pool.map(second, numbers(pause=10.0)) as results:
            async for _ in results:
                moments.append(now())
                if len(moments) == 3:
                    break
    assert moments == [11, 21, 31]


@virtual
async def test_two_consumers_of_a_full_pool(isolation):
    """No deadlock: streams share a pool of size 1 without room for anybody, and both get all of theirs."""
    async with Pool(1, 0, isolation=isolation) as pool:
        a, b = await asyncio.gather(
            pool.map(nap_and_echo, [1, 2, 3]).collect(), pool.map(nap_and_echo, [4, 5, 6], ordered=False).collect()
        )
        assert (a, b) == ([1, 2, 3], [4, 5, 6])


class Item:
    """An item that can be seen to be gone."""


@virtual
async def test_an_item_that_did_not_get_in_at_once_is_let_go_with_its_result(isolation):
    """A consumer that gives up, and comes again: of the first try nothing is kept."""
    gone = []

    async def kind(item):
        return type(item)

    def items():
        item = Item()
        gone.append(weakref.ref(item))
        yield item
        del item
        yield from itertools.count()

    async with Pool(1, 0, isolation=isolation) as pool:
        await pool.submit(nap, 5)
        async with pool.map(kind, items(), errors="yield", buffersize=1) as stream:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(stream), 1)
            result = await anext(stream)
            assert result.value is Item
            del result
            assert (await anext(stream)).value is int
            assert gone[0]() is None


@pytest.mark.parametrize("ordered", [True, False])
def test_a_source_that_cancels_a_job_has_its_result_taken_at_once(ordered):
    """The consumer does not wait when what it would wait for came while the source was read."""

    @virtual
    async def main(isolation):
        began = now()
        async with Pool(1, isolation=isolation) as pool:

            def items():
                yield from range(7)
                for number in (1, 2):  # the first as the buffer is filled, the second when a result was taken
                    assert pool.get_job(number).cancel()
                    yield number

            pool.pause()
            async with pool.map(echo, items(), ordered=ordered, errors="yield", buffersize=8) as stream:
                for number in (1, 2):
                    result = await asyncio.wait_for(anext(stream), 1)
                    assert (result.job.id, result.ok) == (number, False)
            assert now() == began

    for isolation in ("task", "scope"):
        main(isolation)


@virtual
async def test_a_consumer_that_gives_up_waiting_for_room_loses_no_item(isolation):
    """A time limit around `anext` while the pool is full: the item comes with the next call."""
    async with Pool(1, 0, isolation=isolation) as pool:
        await pool.submit(nap, 5)
        async with pool.map(nap_and_echo, iter([1, 2, 3])) as stream:
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(1):
                        await anext(stream)
            assert [result async for result in stream] == [1, 2, 3]


@virtual
async def test_a_job_may_map(isolation):
    """A job that maps over its own pool of size 1 lends its slot, for plain and for asynchronous sources."""

    async def items():
        for n in range(4):
            yield n

    async def parent(source):
        return await pool.map(double, source()).collect()

    async with Pool(1, 0, isolation=isolation) as pool:
        for source in (lambda: range(4), items):
            assert await pool.run(parent, source) == [0, 2, 4, 6]


@virtual
async def test_closing_the_pool_under_a_stream(isolation):
    """A consumer whose pool is shut down gets what is done, then an error; it never hangs."""
    async with Pool(2, isolation=isolation) as pool:

        async def consume(source):
            return [result async for result in pool.map(nap, source)]

        tasks = [asyncio.create_task(consume(source)) for source in (itertools.count(), numbers())]
        await advance(1.5)
        await pool.shutdown(timeout=0)
        for task in tasks:
            with pytest.raises((PoolClosedError, JobCancelledError, asyncio.CancelledError)):
                await asyncio.wait_for(task, 5)


@virtual
async def test_results_are_free_once_they_were_taken(isolation):
    """A stream keeps neither items nor results that it has handed out."""

    class Thing:
        pass

    async def make(thing):
        return Thing()

    items, results = [], []

    def source():
        for _ in range(30):
            thing = Thing()
            items.append(weakref.ref(thing))
            yield thing
            del thing

    for errors in ("raise", "yield"):
        async with Pool(2, isolation=isolation) as pool:
            async with pool.map(make, source(), buffersize=2, errors=errors) as stream:
                async for result in stream:
                    results.append(weakref.ref(result if errors == "raise" else result.value))
                    del result
                    await settle()
                    assert sum(ref() is not None for ref in results) <= 2
                    assert sum(ref() is not None for ref in items) <= 3


@virtual
async def test_plain_functions_are_mapped_in_threads(isolation):
    """`map` takes plain functions, too; they run in threads."""
    async with Pool(3, isolation=isolation) as pool:
        assert await pool.map(str, range(30)).collect() == [str(n) for n in range(30)]


@virtual
async def test_options_hold_for_the_jobs_of_a_stream(isolation):
    """A view's options (here a retry and a group) hold for every job of the stream."""
    tried = set()

    async def once(n):
        if n not in tried:
            tried.add(n)
            raise ValueError
        return n

    async with Pool(2, isolation=isolation) as pool:
        view = pool.with_options(retry=Retry(attempts=2, delay=1), group="stream")
        assert await view.map(once, range(5)).collect() == list(range(5))
        assert pool.statistics().retries == 5


@virtual
async def test_an_id_names_one_job(isolation):
    """Many jobs of one id would push each other out of the books: refused where it is written, and nothing is taken."""
    async with Pool(2, isolation=isolation) as pool:
        with pytest.raises(ValueError, match=r"with_options\(group='x'\)"):
            pool.with_options(id="x").map(double, iter(range(3)))
        assert pool.statistics().submitted == 0
        assert await pool.with_options(id="x").run(double, 2) == 4


@virtual
async def test_wrong_arguments():
    """What cannot work is refused at the call."""
    async with Pool(1) as pool:
        with pytest.raises(ValueError, match="errors="):
            pool.map(echo, [], errors="ignore")
        with pytest.raises(ValueError, match="buffersize"):
            pool.map(echo, [], buffersize=0)
        with pytest.raises(TypeError, match="iterable"):
            pool.map(echo, 5)
        with pytest.raises(TypeError, match="submit"):
            pool.map(nap(1), [1])


@pytest.mark.parametrize("asynchronous", [True, False])
def test_options_for_all_jobs_and_for_each(asynchronous):
    """`options=` is nearer than those of the view: a `JobOptions` for all, or a function of the item."""

    @virtual
    async def main(isolation):
        async def source():
            for n in range(4):
                yield n

        def items():
            return source() if asynchronous else range(4)

        async def about(n):
            job = current_job()
            return job.id, job.name, job.priority, job.group

        async with Pool(2, 0, isolation=isolation) as pool:
            view = pool.with_options(priority=7, name="view")
            for_all = await view.map(about, items(), options=JobOptions(name="all", group="g")).collect()
            assert {row[1:] for row in for_all} == {("all", 7, "g")}
            for_each = await view.map(
                about, items(), options=lambda n: JobOptions(id=f"row-{n}", priority=n) if n else JobOptions()
            ).collect()
            assert [row[0] for row in for_each[1:]] == ["row-1", "row-2", "row-3"]
            assert [row[1:] for row in for_each] == [("view", n or 7, None) for n in range(4)]

    for isolation in ("task", "scope"):
        main(isolation)


@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize("size", [1, 9])
def test_options_that_cannot_be_had_end_the_stream(asynchronous, size):
    """A function of options that raises, returns something else or gives a taken id: results first, then its error."""

    @virtual
    async def main(isolation):
        async def source():
            for n in range(9):
                yield n

        def raises(n):
            if n == 2:
                raise LookupError(n)
            return JobOptions()

        def forgets(n):
            return None if n == 2 else JobOptions()

        def repeats(n):
            return JobOptions(id="taken" if n == 2 else n)

        async with Pool(size, 0, isolation=isolation) as pool:
            await pool.with_options(id="taken").submit(nap, 100)
            pool.resize(size + 1)
            for options, error in ((raises, LookupError), (forgets, TypeError), (repeats, ValueError)):
                got = []
                with pytest.raises(error, match=r"2|taken"):
                    async for result in pool.map(echo, source() if asynchronous else range(9), options=options):
                        got.append(result)
                assert got == [0, 1]
            await pool.cancel("taken")
            with pytest.raises(TypeError, match=r"options=5 is a int: write options=JobOptions\(timeout=5\)"):
                pool.map(echo, [], options=5)
            with pytest.raises(ValueError, match="the name of one"):
                pool.map(echo, [], options=JobOptions(id=5))

    for isolation in ("task", "scope"):
        main(isolation)


@virtual
async def test_a_result_of_a_job_that_never_started(isolation):
    """It ran for no time, in no attempt."""
    async with Pool(1, isolation=isolation) as pool:
        await pool.submit(nap, 5)
        options = JobOptions(queue_timeout=1)
        (result,) = await pool.map(echo, [7], options=options, errors="yield").collect()
        assert (result.input, result.ok, result.attempts, result.seconds) == (7, False, 0, 0)


@virtual
async def test_a_group_does_not_wait_for_an_item_that_did_not_get_in(isolation):
    """A consumer that gives up while the pool is full takes its item back: the group is left at once."""
    async with Pool(1, 0, isolation=isolation) as pool:
        await pool.submit(nap, 5)
        async with pool.group() as group:
            results = group.map(echo, [7])
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(results), 1)
            assert (results.submitted, results.done, results.failed) == (0, 0, 0)
        assert now() == 1
        await results.aclose()
