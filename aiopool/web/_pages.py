"""`add_pages`: the dashboard. Each page asks the target some verbs, and shows the answers; that is all it knows."""

from __future__ import annotations

import functools
import time
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from aiopool._control.families import family
from aiopool._control.filters import ENDED, LIVE
from aiopool._control.problems import Problem
from aiopool.web import _charts
from aiopool.web._assets import serve_asset
from aiopool.web._steering import Answers, carry_out
from aiopool.web._target import Target
from aiopool.web._view import ROWS, View

__all__ = ["add_pages"]

Show = Callable[[View], Awaitable[Response]]
FILTERS = ("name", "group", "label", "error", "waits_for", "older_than", "order")
# Those that need somebody come first.
STORED = (
    "dead",
    "parked",
    "failed",
    "timed_out",
    *("queued", "limited", "scheduled", "moving", "running", "cancelled", "succeeded"),
)


def add_pages(app: FastAPI, target: Target, config: Any) -> None:
    """Add the pages to an app. Its middleware has set `request.state.access` and `.who` when they are asked for.

    Args:
        app: the app; the pages stand at its root, beside the API.
        target: whose pools are shown.
        config: has the `title` of the pages, and the `pool` that is meant where none is named.
    """
    answers = Answers()

    def add(path: str, show: Show) -> None:
        @functools.wraps(show)
        async def page(request: Request) -> Response:
            view = View(request, target, config)
            try:
                answer = answers.take(view.parameters.pop("said", None))
                view.said = answer
                return await show(view)
            except Problem as problem:
                return view.problem(problem, path.lstrip("/") or "./", retry=view.here(path.lstrip("/") or "./"))

        app.router.add_route(path, page, methods=["GET"], include_in_schema=False)

    for path, show in _SHOWN.items():
        add(path, show)

    async def do(request: Request) -> Response:
        return await carry_out(request, View(request, target, config), answers)

    app.router.add_route("/do/{verb}", do, methods=["POST"], include_in_schema=False)
    app.router.add_route("/static/{name}", serve_asset, methods=["GET"], include_in_schema=False)


async def _overview(view: View) -> Response:
    status = await view.open(rows=ROWS)
    history, failures = await view.ask("history"), await view.ask("failures", limit=10)
    samples = history["items"]
    now = status["time"]
    done = _charts.per_second(samples, 1)
    waits = [(sample[0], float(sample[3])) for sample in samples]
    lags = [(sample[0], float(sample[5])) for sample in samples]
    charts = [
        ("Done / s", "rate", _top(done), _charts.line(done, now, "jobs that ended a second, over ten minutes")),
        ("Queued", "num", _top(waits), _charts.line(waits, now, "jobs that wait, over ten minutes")),
        ("Loop lag", "secs", _top(lags), _charts.line(lags, now, "how late the event loop was, over ten minutes")),
    ]
    return view.render("overview.html", "./", charts=charts, failures=failures, seen=len(samples))


def _top(points: list[tuple[float, float]]) -> float:
    return max((value for _, value in points), default=0.0)


async def _jobs(view: View) -> Response:
    status = await view.open()
    wanted = {name: view.parameters.get(name) for name in FILTERS}
    state, cursor = view.parameters.get("status"), view.parameters.get("cursor")
    found = await view.ask("jobs", status=state, cursor=cursor, limit=ROWS, **wanted)
    numbers = status["numbers"]
    ended = state in ENDED or wanted["error"] is not None
    of = found.get("kept") if ended else sum(numbers[one] for one in LIVE)
    if not ended and state in ("running", "queued") and (state == "running" or wanted["order"] == "next"):
        of = numbers[state]
    return view.render(
        "jobs.html", "jobs", found=found, wanted=wanted, state=state, ended=ended, of=of, cursor=cursor,
        live=LIVE, over=ENDED,
    )  # fmt: skip


async def _job(view: View) -> Response:
    await view.open()
    id = view.parameters.get("id")
    if id is None:
        raise Problem("invalid", "id is missing: choose a job from the list")
    job = await view.ask("job", id=id)
    bars, rows = _charts.attempt_bars(job, time.time())
    return view.render("job.html", "jobs", job=job, bars=bars, rows=rows, gone=job.get("finished") is not None)


async def _groups(view: View) -> Response:
    await view.open()
    found = (await view.ask("list_groups"))["items"]
    wanted = view.parameters.get("filter", "")
    shown = [one for one in found if wanted in one["name"]]
    return view.render("groups.html", "groups", groups=shown[: 4 * ROWS], of=len(found), wanted=wanted, hit=len(shown))


async def _names(view: View) -> Response:
    await view.open()
    found = await view.ask("metrics")
    order = view.parameters.get("order", "ended")
    keys: dict[str, Callable[[dict[str, Any]], Any]] = {
        "name": lambda row: row["name"],
        "failed": lambda row: -row["failed"],
        "run": lambda row: -(row["run_p95"] or 0.0),
        "wait": lambda row: -(row["wait_p95"] or 0.0),
        "ended": lambda row: -row["ended"],
    }
    rows = sorted(found["items"], key=keys.get(order, keys["ended"]))
    return view.render("names.html", "names", rows=rows, measuring=found["measuring"], order=order)


async def _loop(view: View) -> Response:
    status = await view.open()
    found = await view.ask("blocked")
    lags = [(at, lag) for at, lag in found["lags"]]
    chart = _charts.line(lags, status["time"], "how late the event loop was, over ten minutes")
    spells = list(reversed(found["spells"]))
    return view.render(
        "loop.html", "loop", now=found["now"], spells=spells, chart=chart, top=_top(lags), asked=len(lags)
    )


async def _tree(view: View) -> Response:
    await view.open()
    root = view.parameters.get("root")
    found = await view.ask("tree", root=root)
    return view.render("tree.html", "tree", found=found, rows=family(found["nodes"]), root=root)


async def _what_if(view: View) -> Response:
    await view.open()
    sizes = view.parameters.get("sizes")
    try:
        found = await view.ask("what_if", sizes=sizes)
    except Problem as problem:
        if problem.kind != "conflict":
            raise
        return view.render("what_if.html", "what-if", found=None, few=problem.detail, sizes=sizes)
    return view.render("what_if.html", "what-if", found=found, sizes=sizes)


async def _events(view: View) -> Response:
    await view.open()
    types = view.parameters.get("types")
    found = await view.ask("events", after=0, limit=500, types=None if types is None else types.split(","))
    seen = list(reversed(found["items"]))
    return view.render("events.html", "events", events=seen, last=found["next"], types=types)


async def _health(view: View) -> Response:
    await view.open()
    return view.render("health.html", "health", health=await view.ask("health"))


async def _actions(view: View) -> Response:
    await view.open()
    done, many = (await view.ask("actions"))["items"], (await view.ask("operations"))["items"]
    return view.render("actions.html", "actions", actions=done, operations=list(reversed(many)))


async def _settings(view: View) -> Response:
    await view.open()
    return view.render("settings.html", "settings", settings=await view.ask("settings"))


async def _fleet(view: View) -> Response:
    await view.open()
    schedules = (await view.ask("schedules"))["items"]
    if (await view.ask("settings"))["now"]["store"] is None:
        return view.render("fleet.html", "fleet", fleet=None, schedules=schedules)
    fleet = await view.ask("fleet")
    state, cursor = view.parameters.get("status", "dead"), view.parameters.get("cursor")
    name, group = view.parameters.get("name"), view.parameters.get("group")
    states = [one for one in STORED if one != "moving" or fleet["live"][one]]
    found = await view.ask("stored_jobs", status=state, name=name, group=group, limit=ROWS, cursor=cursor)
    return view.render(
        "fleet.html", "fleet", fleet=fleet, schedules=schedules, found=found, state=state, states=states, name=name,
        group=group, cursor=cursor, ended=state in fleet["ended"],
    )  # fmt: skip


_SHOWN: dict[str, Show] = {
    "/": _overview,
    "/jobs": _jobs,
    "/job": _job,
    "/groups": _groups,
    "/names": _names,
    "/loop": _loop,
    "/tree": _tree,
    "/what-if": _what_if,
    "/events": _events,
    "/health": _health,
    "/fleet": _fleet,
    "/actions": _actions,
    "/settings": _settings,
}
