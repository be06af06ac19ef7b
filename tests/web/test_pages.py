"""The pages of the dashboard, of real pools, without a browser: what they show, to whom, and what their buttons do."""

import asyncio
import contextlib
import gzip
import html
import re
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from web_app import HOME, client, make_app

import aiopool.testing
import aiopool.web
from aiopool import Handlers, Pool, PoolStatus, current_job
from aiopool.metrics import observe

PAGES = ["./", "jobs", "groups", "names", "loop", "tree", "what-if", "events", "health", "fleet", "actions", "settings"]
EVIL = 'x"><script>alert(1)</script>\x00\u202e'
STATIC = Path(aiopool.web.__file__).parent / "_static"
APP = make_app()


async def forever():
    await asyncio.get_running_loop().create_future()


async def fail(text="no"):
    raise ValueError(text)


def look(access="admin", app=APP):
    return client(app, access, f"{HOME}/")


async def get(address, access="admin", status=200):
    async with look(access) as visitor:
        answer = await visitor.get(address)
        assert answer.status_code == status, answer.text
        return answer.text


async def press(verb, access="admin", **fields):
    async with look(access) as visitor:
        return await visitor.post(f"do/{verb}", data=fields)


def text_of(page):
    """What one reads on a page."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


@contextlib.asynccontextmanager
async def busy(**options):
    """A pool in which jobs run, wait, have failed, and have names that try to be more than names."""
    async with Pool(2, name="mail", queue_size=None, keep_finished=100, on_error=lambda *_: None, **options) as pool:
        observe(pool)
        with contextlib.suppress(ValueError):
            await (await pool.with_options(name=EVIL, group=EVIL, metadata={EVIL: EVIL}).submit(fail, EVIL * 1000))
        await pool.with_options(name=EVIL, group="g", id=EVIL).submit(forever)

        async def parent():
            current_job().report_progress(0.25, EVIL)
            await pool.with_options(name="child").submit(forever)
            await forever()

        await pool.with_options(name="parent").submit(parent)
        for number in range(5):
            await pool.with_options(name=f"later {number}", group=EVIL).submit(forever)
        await pool.with_options(delay=1000).submit(forever)
        await asyncio.sleep(0)
        try:
            yield pool
        finally:
            await pool.cancel_all()


# -- each page ---------------------------------------------------------------------------------------------------------

EMPTY = {
    "./": "No job yet. Submit one like this",
    "jobs": "No job yet. Submit one like this",
    "jobs?status=failed": "Jobs that have ended are not kept. Keep the last thousand",
    "groups": "No job has a group. Give some one",
    "names": "Jobs are not counted and timed by their names",
    "loop": "No spell was seen. When the loop is held up for more than 50 ms",
    "tree": "No nested jobs. A job that submits another one in its pool shows here",
    "what-if": "How long jobs would wait at other sizes shows here",
    "events": "Nothing was heard yet. Events cost a pool a little",
    "health": "No findings",
    "fleet": "This pool keeps its jobs in memory. With a store",
    "actions": "Nobody has done anything from outside",
    "settings": "The options as the pool was given them",
}


@pytest.mark.parametrize("page", EMPTY)
async def test_an_empty_page_says_what_would_be_there(page):
    """A page with nothing on it says what would appear, and how."""
    async with Pool(2, name="mail"):
        assert EMPTY[page] in text_of(await get(page))


@pytest.mark.parametrize("page", [*PAGES, "jobs?status=failed", "jobs?status=queued&order=next", "jobs?status=running"])
async def test_no_name_becomes_more_than_a_name(page):
    """Names, groups, labels, ids and errors are text, whatever they say; long ones are cut, marks are shown."""
    async with busy():
        found = await get(page)
        assert "<script>alert" not in found
        assert "\x00" not in found
        assert "\u202e" not in re.sub(r'"[^"]*"', "", found)
        assert len(found) < 150_000
        again = await get(page)  # the events are heard since the first look
        assert "<script>alert" not in again
        if page in ("jobs", "groups"):
            assert "&lt;script&gt;alert(1)&lt;/script&gt;⟨" in found


async def test_a_job_is_shown_whole():
    """A job that runs has its stack, one that waits its place in line and the reason, one that failed its error."""
    async with busy() as pool:
        running, waiting = pool.running_jobs(), pool.next_jobs(1)[0]
        failed = pool.finished_jobs(1)[0]
        parent = next(job for job in running if job.name == "parent")
        found = text_of(await get(f"job?id={parent.id}"))
        assert "Suspended at test_pages.py" in found
        assert "in forever" in found
        assert "Stack" in found
        assert "25 %" in await get(f"job?id={parent.id}")
        found = text_of(await get(f"job?id={waiting.id}"))
        assert "slot : it waits for a free slot; place 1 in line" in found
        page = await get(f"job?id={failed.id}")
        assert "ValueError: x" in text_of(page)
        assert "Traceback" in page
        assert "<script>alert" not in page
        assert "attempt 1" in text_of(page)
        assert "characters)" in page
        async with look() as visitor:
            evil = await visitor.get("job", params={"id": EVIL})
            assert evil.status_code == 200
            assert "<script>alert" not in evil.text


async def test_attempts_and_pauses_are_rows():
    """Where the time of a job went is a table: waiting, each attempt with its error, each pause."""
    async with Pool(1, name="mail", keep_finished=10, on_error=lambda *_: None) as pool:
        job = await pool.with_options(retry=aiopool.Retry(attempts=2, delay=0.01, jitter=0)).submit(fail, "once")
        with contextlib.suppress(ValueError):
            await job
        found = text_of(await get(f"job?id={job.id}"))
        assert re.search(
            r"attempt 1 .*ValueError: once pause before the next attempt .* attempt 2 .*ValueError: once", found
        )


async def test_failures_are_told_by_their_errors():
    """The overview has each error once, with how many jobs ended so, and a link to them."""
    async with Pool(4, name="mail", keep_finished=100, on_error=lambda *_: None) as pool:
        for _ in range(7):
            await pool.submit(fail)
        await pool.join()
        page = await get("./")
        assert "7 × ValueError in fail" in text_of(page)
        (link,) = re.findall(r'class="kind" href="([^"]*)"', page)
        assert "7 shown" in text_of(await get(html.unescape(link)))


async def test_the_search_says_how_far_it_went():
    """A search looks at 20,000 jobs, says so, and goes on where it stopped."""
    async with Pool(1, name="mail", queue_size=None) as pool:
        rare = await pool.with_options(name="rare").submit(forever)
        for _ in range(20_100):
            pool.submit_nowait(forever)
        page = await get("jobs?name=rare")
        assert "Nothing matches so far: searched 20,000 of 20,101. Go on" in text_of(page)
        (link,) = set(re.findall(r'href="(jobs[^"]*cursor[^"]*)"', page))
        found = text_of(await get(html.unescape(link)))
        assert f" {rare.id} rare" in found
        await pool.cancel_all()


async def test_pages_are_walked_to_the_end():
    """Fifty rows to a page; the next one goes on where it ended; each job comes once."""
    async with Pool(1, name="mail") as pool:
        for _ in range(120):
            await pool.submit(forever)
        seen, address = [], "jobs?status=queued"
        while address:
            page = await get(address)
            seen += re.findall(r'<tr data-job="(\d+)"', page)
            following = re.search(r'rel="next" href="([^"]*)"', page)
            address = html.unescape(following[1]) if following else None
        assert sorted(map(int, seen)) == sorted(job.id for job in pool.jobs("queued"))
        assert len(seen) == 119
        await pool.cancel_all()


async def test_what_is_not_there_is_said():
    """An unknown job, a job that is not kept any more, and an argument that is none are pages with a reason."""
    async with Pool(1, name="mail") as pool:
        await (await pool.submit(asyncio.sleep, 0))
        assert "no job has this id" in text_of(await get("job?id=nobody", status=404))
        assert "is not kept any more" in text_of(await get("job?id=1", status=410))
        assert "older_than" in text_of(await get("jobs?older_than=soon", status=422))
        assert "cursor" in text_of(await get("jobs?cursor=%00", status=400))


async def test_of_several_pools_one_is_chosen():
    """Where no pool is named and there are several, the page asks which; a name may have any characters."""
    async with Pool(1, name="a/b?c"), Pool(1, name="second"):
        page = (await _any("./")).text
        assert "Which pool?" in page
        async with look() as visitor:
            answer = await visitor.get("jobs", params={"pool": "a/b?c"})
            assert answer.status_code == 200
            assert "a/b?c" in answer.text
            assert "api/v1/pools/a%2Fb%3Fc/events" in answer.text


async def _any(address):
    async with look() as visitor:
        return await visitor.get(address)


async def test_a_search_without_a_hit_is_no_want_of_records():
    """Jobs that have ended are kept, and none of them is meant: the page says that, and not how to keep some."""
    async with busy():
        page = text_of(await get("jobs?status=failed&name=nobody"))
        assert "Jobs that have ended are not kept" not in page
        assert re.search(r"0 shown; searched all 1\b", page)
        assert "Nothing matches" in page


async def test_other_sizes_are_compared_and_set():
    """Sizes side by side, from the jobs that have ended; the button sets one of them."""
    async with Pool(2, name="mail", keep_finished=500) as pool:
        await pool.map(asyncio.sleep, [0.001] * 200).collect()
        page = await get("what-if?sizes=1,2,64")
        assert "The last 200 jobs, run once more on paper" in text_of(page)
        assert re.findall(r'data-l="Size" class="n">(\d+)', page) == ["1", "2", "64"]
        assert page.count(">Set</button>") == 2  # the two others
        assert "do/resize" not in await get("what-if", "read")
        assert "write 8 numbers from 1 to 10000" in text_of(await get("what-if?sizes=x", status=422))
        answer = await press("resize", pool="mail", size="64", back="what-if?pool=mail")
        assert answer.status_code == 303
        assert pool.size == 64


# -- what each page is made of -----------------------------------------------------------------------------------------


async def test_addresses_are_relative_and_lead_somewhere():
    """No address of any page has a host or begins at the root; each leads to something, under any prefix."""
    outer = Starlette(routes=[Mount("/a/b", APP)])
    async with busy():
        for app, root in ((APP, f"{HOME}/"), (outer, f"{HOME}/a/b/")):
            async with client(app, "admin", root) as visitor:
                found = {urljoin(root, page) for page in PAGES}
                for page in PAGES:
                    answer = await visitor.get(urljoin(root, page))
                    for link in re.findall(r'(?:href|src|action)="([^"]*)"', answer.text):
                        link = html.unescape(link)
                        assert not urlsplit(link).netloc, link
                        assert not link.startswith("/"), link
                        if "action=" not in link and not link.startswith("do/"):
                            found.add(urljoin(root + page.strip("./"), link))
                for address in found:
                    assert (await visitor.get(address)).status_code in (200, 404, 410), address
                    assert address.startswith(root)


@pytest.mark.parametrize("page", PAGES)
async def test_nothing_stands_inline(page):
    """No script, style or handler stands in a page: the policy forbids them."""
    async with busy():
        found = await get(page)
    assert re.findall(r"<script(?! type=\"module\" src=)", found) == []
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=", found.lower())


def test_what_the_browser_loads_is_small():
    """Budgets: the script 10 kB compressed, the stylesheet 4 kB."""
    assert len(gzip.compress((STATIC / "dash.js").read_bytes())) <= 10_000
    assert len(gzip.compress((STATIC / "dash.css").read_bytes())) <= 4_000


async def test_pages_are_small():
    """Budget: a page with all its rows 6 kB compressed; and that is how it is sent."""
    async with Pool(60, name="mail", queue_size=None, keep_finished=100) as pool:
        for number in range(200):
            await pool.with_options(group=f"group {number % 7}").submit(forever)
        await asyncio.sleep(0)
        async with look() as visitor:
            for page in (*PAGES, "jobs?status=running"):
                async with visitor.stream("GET", page, headers={"accept-encoding": "gzip"}) as answer:
                    sent = b"".join([part async for part in answer.aiter_raw()])
                assert answer.headers["content-encoding"] == "gzip"
                assert len(sent) <= 6_000, (page, len(sent))
        await pool.cancel_all()


async def test_files_are_kept_by_browsers_and_pages_are_not():
    """The address of a file has its digest, so it may be kept for ever; a page is never kept."""
    async with Pool(1, name="mail"), look("read") as visitor:
        page = await visitor.get("./")
        assert page.headers["cache-control"] == "no-store"
        for link in re.findall(r'(?:href|src)="(static/[^"]*)"', page.text):
            answer = await visitor.get(link)
            assert answer.status_code == 200
            assert "immutable" in answer.headers["cache-control"]
            assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert (await visitor.get("static/other.js")).status_code == 404


# -- buttons -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [*PAGES, "jobs?status=queued"])
async def test_who_may_look_sees_no_buttons(page):
    """Verbs that are not allowed are absent, and the head says read-only."""
    async with busy():
        found = await get(page, "read")
        assert 'method="post"' not in found
        assert "read-only" in found
        plain = ("names", "what-if", "events", "health", "settings", "loop", "fleet")
        assert page in plain or 'method="post"' in await get(page)


async def test_who_operates_does_not_end_the_pool():
    """The buttons that end a pool are for admin access."""
    async with Pool(1, name="mail"):
        assert "do/drain" in await get("actions")
        assert "do/drain" not in await get("actions", "operate")
        answer = await press("drain", "operate", confirmed="yes")
        assert answer.status_code == 403
        assert "admin access" in text_of(answer.text)


async def test_a_button_does_what_it_says_and_comes_back():
    """A form without a script pauses, and the browser is sent back to its page, which says what was done, once."""
    async with Pool(1, name="mail"):
        answer = await press("pause", pool="mail", back="groups?pool=mail")
        assert answer.status_code == 303
        back = answer.headers["location"]
        assert back.startswith("../groups?pool=mail&said=")
        page = await get(back.removeprefix("../"))
        assert "pause: paused True" in text_of(page)
        assert "paused" in text_of(page)
        assert "pause: paused True" not in text_of(await get(back.removeprefix("../")))
        assert "Who did what" in text_of(await get("actions"))
        assert "pause" in text_of(await get("actions"))
        assert "do/resume" in await get("./")
        assert (await press("resume", pool="mail")).status_code == 303
        assert (await press("resize", pool="mail", size="7")).status_code == 303
        assert "of 7" in text_of(await get("./"))
        assert "it lies between 1 and" in text_of((await press("resize", pool="mail", size="0")).text)


@pytest.mark.parametrize(
    "back",
    [
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "../../x",
        "javascript:alert(1)",
        "jobs\r\nx",
        "do/x",
    ],
)
async def test_a_button_sends_nobody_elsewhere(back):
    """Where to come back to is a page of ours, whatever the form says."""
    async with Pool(1, name="mail"):
        answer = await press("pause", back=back)
        assert urljoin(f"{HOME}/do/pause", answer.headers["location"]).partition("?")[0] == f"{HOME}/"


async def test_what_cannot_be_undone_is_asked_first():
    """A cancel is asked about, by its verb and the number of jobs; only the second form does it."""
    async with Pool(1, name="mail", keep_finished=10) as pool:
        job = await pool.submit(forever)
        asked = await press("cancel", id=str(job.id), reason="why not", back=f"job?id={job.id}")
        assert asked.status_code == 200
        assert "Cancel 1 job?" in text_of(asked.text)
        assert "why not" in asked.text
        assert not job.done()
        fields = dict(re.findall(r'name="([a-z]+)" value="([^"]*)"', asked.text))
        done = await press("cancel", **{name: html.unescape(one) for name, one in fields.items()})
        assert done.status_code == 303
        with pytest.raises(aiopool.JobCancelledError):
            await job


async def test_many_are_cancelled_only_as_many_as_were_counted():
    """All that match: the page counts them first; if the number has changed meanwhile, nothing is done."""
    async with Pool(1, name="mail") as pool:
        for _ in range(30):
            await pool.with_options(name="old").submit(forever)
        asked = await press("operation", do="cancel", all="yes", name="old", status="queued", back="jobs")
        assert "Cancel 29 jobs?" in text_of(asked.text)
        assert 'name="all" value="yes"' in asked.text
        assert 'name="expect" value="29"' in asked.text
        await pool.with_options(name="old").submit(forever)
        fields = {"do": "cancel", "name": "old", "status": "queued", "expect": "29", "confirmed": "yes"}
        refused = await press("operation", all="yes", **fields)
        assert refused.status_code == 409
        assert "30 jobs match, not 29" in text_of(refused.text)
        done = await press("operation", all="yes", **(fields | {"expect": "30"}))
        assert done.status_code == 303
        await aiopool.testing.wait_until(lambda: pool.statistics().cancelled == 30)
        assert "cancel" in text_of(await get("actions"))
        assert "30" in text_of(await get("actions"))
        await pool.cancel_all()


async def test_no_tick_is_not_all():
    """Without a tick nothing is cancelled; with some, those, whatever filter was on the page."""
    async with Pool(1, name="mail") as pool:
        jobs = [await pool.with_options(name="old").submit(forever) for _ in range(5)]
        answer = await press("operation", do="cancel", name="old")
        assert answer.status_code == 422
        assert "no job is ticked" in text_of(answer.text)
        fields = {"do": "cancel", "name": "old", "ids": [str(jobs[1].id), str(jobs[2].id)], "expect": "2"}
        assert (await press("operation", confirmed="yes", **fields)).status_code == 303
        await aiopool.testing.wait_until(lambda: jobs[1].done() and jobs[2].done())
        assert pool.statistics().cancelled == 2
        await pool.cancel_all()


async def test_the_pool_is_ended_by_a_button():
    """Draining asks first, and names how many jobs are there."""
    async with Pool(1, name="mail") as pool:
        await pool.submit(asyncio.sleep, 0)
        asked = await press("drain", pool="mail")
        assert "Drain and close the pool: 1 job?" in text_of(asked.text) or "0 jobs" in text_of(asked.text)
        assert (await press("drain", pool="mail", confirmed="yes")).status_code == 303
        await pool.wait_closed()
        assert pool.status is PoolStatus.CLOSED


@pytest.mark.parametrize("verb", ["status", "nothing", "__class__", "jobs"])
async def test_only_verbs_have_buttons(verb):
    """What is no verb that changes something cannot be posted."""
    async with Pool(1, name="mail"):
        answer = await press(verb)
        assert answer.status_code == 404
        assert "there is no button" in text_of(answer.text)


async def test_a_form_has_bounds():
    """Too many fields are refused, and an argument that no verb has."""
    async with Pool(1, name="mail"):
        assert (await press("pause", **{f"f{n}": "1" for n in range(3000)})).status_code == 400
        assert "there is no argument" in text_of((await press("pause", colour="red")).text)


# -- a store -----------------------------------------------------------------------------------------------------------


async def test_a_pool_with_a_store_has_a_fleet(tmp_path):
    """Hosts, jobs of the store by status, what the engine says; one that failed runs again by its button, or all do."""
    handlers = Handlers()
    bad = True

    @handlers.register("ship")
    async def ship(order: int) -> str:
        if bad:
            raise LookupError(f"order {order} {EVIL}")
        return "shipped"

    async with Pool(
        2, name="orders", store=f"sqlite:///{tmp_path}/jobs.db", handlers=handlers, on_error=lambda *_: None
    ) as pool:
        jobs = [await pool.submit(ship, number) for number in range(3)]
        await asyncio.gather(*jobs, return_exceptions=True)
        page = await get("fleet?status=failed")
        found = text_of(page)
        assert "<script>alert" not in page
        assert "LookupError: order 2" in found
        assert "SQLite" in found
        assert "Hosts" in found
        assert "journal mode wal" in found
        assert 'method="post"' not in await get("fleet?status=failed", "read")
        assert "Run again" in text_of(await get(f"job?id={jobs[0].id}"))
        bad = False
        assert (await press("retry", id=jobs[0].id, back="fleet")).status_code == 303
        asked = await press("requeue", status="failed", back="fleet")
        assert re.search(r"Run again [23] jobs\?", text_of(asked.text))
        assert (await press("requeue", status="failed", confirmed="yes")).status_code == 303

        async def all_shipped():
            return (await pool.fleet.statistics()).ended.get("succeeded", 0) == 3

        while not await all_shipped():
            await asyncio.sleep(0.01)
        assert "3" in text_of(await get("fleet?status=succeeded"))
        forgotten = await press("forget_history", older_than="0", confirmed="yes", back="fleet")
        assert forgotten.status_code == 303
        assert "No job of the store is dead" in text_of(await get("fleet"))
        assert (await press("pause_fleet", back="fleet")).status_code == 303
        assert "Resume the fleet" in text_of(await get("fleet"))
        assert (await press("resume_fleet", back="fleet")).status_code == 303


# -- a megabyte --------------------------------------------------------------------------------------------------------


@pytest.mark.long
async def test_what_is_a_megabyte_long_is_cut_on_every_page():
    """Names, groups, labels, ids, errors, reasons and reports of 1 MB: no page is large."""
    long = EVIL + "ü" * 2**20
    async with Pool(2, name="mail", queue_size=None, keep_finished=100, on_error=lambda *_: None) as pool:
        observe(pool)
        view = pool.with_options(
            name=long, group=long, metadata={long: long, "list": [long], "many": list(range(9999))}
        )

        async def parent():
            current_job().report_progress(0.25, long)
            await view.submit(forever)
            await view.with_options(id=long).submit(forever)
            await forever()

        first = await view.submit(fail, long)
        await first.wait()
        await view.submit(parent)
        for number in range(60):
            await view.with_options(id=f"{number}{long}", group=f"{number}{long}").submit(forever)
            (await view.submit(forever)).cancel(long)
        await asyncio.sleep(0)
        pages = [
            *PAGES,
            "jobs?status=failed",
            "jobs?status=cancelled",
            "jobs?status=queued&order=next",
            f"job?id={first.id}",
        ]
        for page in (*pages, *pages):  # the events are heard since the first look
            found = await get(page)
            assert len(found) < 200_000, (page, len(found))
            assert "<script>alert" not in found
        assert "characters)" in await get(f"job?id={first.id}")
        (await view.submit(forever)).cancel(long)
        while "JobCancelled" not in text_of(found := await get("events")):
            await asyncio.sleep(0.01)
        assert len(found) < 200_000
        await pool.cancel_all()
