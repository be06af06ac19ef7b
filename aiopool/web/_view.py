"""`View`: one look of somebody at one pool: what they may, what they asked, and how the answer becomes a page.

All addresses on a page are relative, and all pages stand at one level: so they are right under any prefix, also behind
a proxy that takes the prefix away and tells nobody. The whole of a view is in its address.
"""

from __future__ import annotations

import functools
import gzip
import time
from typing import Any, final
from urllib.parse import quote

from jinja2 import Environment, PackageLoader
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import Response

from aiopool._control.arguments import MAX_TEXT
from aiopool._control.problems import Problem
from aiopool._control.verbs import VERBS, Access
from aiopool.web import _words
from aiopool.web._assets import asset_names
from aiopool.web._target import Target

__all__ = ["PAGES", "View"]

# Rows of a table, and of the frames that keep it fresh.
ROWS = 50
# Address, title, key of the keyboard.
PAGES = (
    ("./", "Overview", "o"),
    ("jobs", "Jobs", "j"),
    ("groups", "Groups", "g"),
    ("names", "Names", "n"),
    ("loop", "Loop", "l"),
    ("tree", "Tree", "t"),
    ("what-if", "What if", "w"),
    ("events", "Events", "e"),
    ("health", "Health", "h"),
    ("fleet", "Fleet", "f"),
    ("actions", "Actions", "a"),
    ("settings", "Settings", "s"),
)
SMALL = 1000  # bytes; what is shorter is not compressed


class _Templates(Environment):
    """Answers of verbs are dicts: `job.name` is looked up in them first. (Jinja tries an attribute, and catches.)"""

    def getattr(self, obj: Any, attribute: str) -> Any:
        if type(obj) is dict and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)


@functools.cache
def _environment() -> Environment:
    made = _Templates(
        loader=PackageLoader("aiopool.web", "_templates"),
        autoescape=True,
        finalize=_words.clean,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "num": _words.number,
        "rate": _words.rate,
        "secs": _words.seconds,
        "kb": _words.kilobytes,
        "moment": _words.moment,
        "live_row": _words.live_row,
        "short": _words.short,
        "value": _words.value,
        "fact": _words.fact,
    }
    made.globals["assets"] = asset_names()
    made.globals["pages"] = PAGES
    made.globals["longest"] = MAX_TEXT
    return made


@final
class View:
    """One request for a page.

    Attributes:
        pool: the key of the pool; None: none is chosen.
        pools: the keys of all of them.
        access: what who asks may do.
        who: asks.
        parameters: of the address.
    """

    def __init__(self, request: Request, target: Target, config: Any) -> None:
        state = request.state
        self.access = state.access if isinstance(state.access, Access) else Access[str(state.access).upper()]
        self.who: str = state.who
        self.parameters = {name: one for name, one in request.query_params.items() if one != ""}
        self.pool: str | None = self.parameters.pop("pool", None) or getattr(config, "pool", None)
        self.pools: list[str] = []
        self.program = ""
        self.status: dict[str, Any] | None = None
        self.said: str | None = None  # to who pressed a button before
        self._pages: dict[str, str] = {}  # their addresses, for links that say more
        self._target = target
        self._title = getattr(config, "title", "aiopool")
        self.up = "../" if request.url.path.rpartition("/do/")[1] and request.path_params.get("verb") else ""
        self._gzip = "gzip" in request.headers.get("accept-encoding", "")

    async def open(self, rows: int = 0) -> dict[str, Any]:
        """Find the pool that is meant, and its numbers; the page has them in its head.

        Raises:
            Problem: there is none, or several and none was named.
        """
        hello = await self._target.hello()
        self.pools, self.program = list(hello["pools"]), f"{hello['program']} · {hello['pid']}"
        self.access = min(self.access, Access[str(hello.get("access", "admin")).upper()])
        if self.pool is None and len(self.pools) == 1:
            self.pool = self.pools[0]
        if self.pool is not None:
            self.status = await self.ask("status", rows=rows)
            return self.status
        raise Problem("not-found", "no pool is open here" if not self.pools else "say which pool")

    async def ask(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """Ask the pool something, for whom we are asked.

        Raises:
            Problem: it was refused, or did not work.
        """
        given = {name: one for name, one in arguments.items() if one is not None}
        return await self._target.ask(verb, self.pool, who=self.who, access=self.access, **given)

    def may(self, verb: str) -> bool:
        """Whether they may ask for something; buttons of what they may not are not there."""
        return VERBS[verb].access <= self.access

    def url(self, page: str, **parameters: Any) -> str:
        """Return the address of a page about the same pool."""
        return self.up + _words.address(page, {"pool": self.pool} | parameters)

    def job_link(self, id: Any) -> Markup:
        """Return a link to a job; in Python, for a table has one in each row, and a macro takes ten times as long."""
        return self._link("job", "id", str(id), _words.cut(str(id), 24), ' class="id"')

    def group_link(self, name: str | None) -> Markup:
        """Return a link to the jobs of a group, if there is one."""
        return self._link("jobs", "group", name, _words.short(name), "") if name else Markup("")

    def _link(self, page: str, key: str, of: str, shown: str, kind: str) -> Markup:
        text = escape(_words.clean(shown))
        if len(of) > MAX_TEXT:  # it cannot be asked for
            return Markup(f"<span{kind}>{text}</span>")  # noqa: S704 - escaped before
        address = self._pages.get(page)
        if address is None:
            address = self._pages[page] = escape(self.url(page))  # it has the pool
        return Markup(f'<a{kind} href="{address}&amp;{key}={_words.quoted(of)}">{text}</a>')  # noqa: S704 - escaped before

    def here(self, page: str) -> str:
        """Return the address of this view, to come back to."""
        return _words.address(page, {"pool": self.pool} | self.parameters)

    @property
    def stream(self) -> str:
        """The address of the stream of frames."""
        return "" if self.pool is None else f"{self.up}api/v1/pools/{quote(self.pool, safe='')}/events?rows={ROWS}"

    def render(self, template: str, page: str, status: int = 200, **context: Any) -> Response:
        """Return a page."""
        text = (
            _environment()
            .get_template(template)
            .render(
                view=self,
                page=page,
                site=self._title,
                up=self.up,
                status=self.status,
                url=self.url,
                job_link=self.job_link,
                group_link=self.group_link,
                may=self.may,
                rendered=time.time(),
                **context,
            )
        )
        data = text.encode("utf-8", "replace")
        headers = {"Cache-Control": "no-store", "Vary": "Accept-Encoding"}
        if self._gzip and len(data) > SMALL:
            data = gzip.compress(data, 5, mtime=0)
            headers["Content-Encoding"] = "gzip"
        return Response(data, status, headers, "text/html; charset=utf-8")

    def problem(self, problem: Problem, page: str, *, retry: str | None = None) -> Response:
        """Return a page that says why something was refused, or did not work."""
        if self.pool is None and self.pools and problem.detail == "say which pool":
            return self.render("pools.html", page)
        said = problem.to_dict()
        return self.render("problem.html", page, problem.status, problem=said, retry=retry)
