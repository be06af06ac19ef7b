"""Buttons: a form posts to `do/{verb}`; the target is asked, and the browser is sent back to where it was.

What cannot be undone is asked first: the page (in a `<dialog>`, where there is a script) names the verb and the number
of jobs, and only its button carries `confirmed`. If the number has changed meanwhile, nothing is done. That the form is
one of ours was checked before, and what somebody may do is checked where it is done.
"""

from __future__ import annotations

import re
import secrets
from collections import OrderedDict
from typing import Any, final
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from aiopool._control.problems import Problem
from aiopool._control.verbs import VERBS, Access
from aiopool.web._view import PAGES, View
from aiopool.web._words import address

__all__ = ["Answers", "carry_out"]

MAX_FORM = 2**20
MAX_FIELDS = 2000
# Where a form may send the browser back to: a page of ours, and nothing that has a host or goes up.
_BACK = re.compile(rf"(?:{'|'.join(page for page, _, _ in PAGES if page != './')}|job|\./)(?:\?[^#\s\\]*)?")
# Verbs that nothing undoes, in words for a button; the number of jobs comes between.
DESTRUCTIVE = {
    "cancel": "Cancel",
    "cancel_stored": "Cancel",
    "cancel_group": "Cancel",
    "operation": "Cancel",
    "requeue": "Run again",
    "drain": "Drain and close the pool:",
    "shutdown": "Shut down the pool:",
    "forget_history": "Forget the history of jobs that ended",
}


@final
class Answers:
    """What was said to somebody who pressed a button, until the page to which they were sent has shown it."""

    MAX = 100

    def __init__(self) -> None:
        self._kept: OrderedDict[str, str] = OrderedDict()

    def keep(self, text: str) -> str:
        """Keep a text, and return the word to ask for it with."""
        word = secrets.token_urlsafe(6)
        self._kept[word] = text
        while len(self._kept) > self.MAX:
            self._kept.popitem(last=False)
        return word

    def take(self, word: str | None) -> str | None:
        """Return a text, once."""
        return None if word is None else self._kept.pop(word, None)


async def carry_out(request: Request, view: View, answers: Answers) -> Response:
    """Do what a button asks for, or ask back."""
    verb, back = request.path_params["verb"], "./"
    try:
        fields = await _form(request)
        given = str(fields.pop("back", ""))
        back = given if _BACK.fullmatch(given) else back
        view.pool = _text(fields.pop("pool", None))
        confirmed = fields.pop("confirmed", None) is not None
        await view.open()
        if verb not in VERBS or VERBS[verb].access is Access.READ:
            raise Problem("not-found", f"there is no button for {verb!r:.50}")
        _choose(verb, fields)
        if verb in DESTRUCTIVE and not confirmed and view.may(verb) and fields.get("do") != "reprioritize":
            return await _ask_first(view, verb, fields, back)
        answer = await view.ask(verb, **fields)
    except Problem as problem:
        return view.problem(problem, "./", retry=f"../{back}")
    word = answers.keep(_said(verb, answer, fields))
    return RedirectResponse(f"../{_with(back, word)}", 303)


def _choose(verb: str, fields: dict[str, Any]) -> None:
    """Read which jobs a form is about: those that are ticked, or all that match; never all for want of a tick."""
    everything = fields.pop("all", None) is not None
    if verb != "operation":
        return
    if everything:
        fields.pop("ids", None)
    elif not fields.get("ids"):
        raise Problem("invalid", "no job is ticked: tick some, or choose all that match")
    else:  # the filter only says what was on the page
        for name in ("status", "name", "group", "label", "error", "waits_for", "older_than"):
            fields.pop(name, None)


async def _ask_first(view: View, verb: str, fields: dict[str, Any], back: str) -> Response:
    """Show what would be done, and to how many."""
    count: int | None = None
    expects = False
    if verb in ("operation", "requeue"):
        count = (await view.ask(verb, **fields, dry_run=True))["total"]
        expects = verb == "operation"
    elif verb == "cancel_group":
        count = (await view.ask("operation", do="cancel", group=fields.get("group"), dry_run=True))["total"]
    elif verb in ("cancel", "cancel_stored"):
        count = 1
    elif verb in ("drain", "shutdown") and view.status is not None:
        numbers = view.status["numbers"]
        count = numbers["running"] + numbers["queued"] + numbers["scheduled"]
    what = DESTRUCTIVE["requeue" if fields.get("do") == "retry" else verb]
    jobs = "" if count is None else f" {count:,} job{'' if count == 1 else 's'}"
    kept = {name: one for name, one in fields.items() if name not in ("expect", "dry_run")}
    if expects:
        kept["expect"] = count
        if not fields.get("ids"):
            kept["all"] = "yes"
    hidden = [(name, one) for name, many in kept.items() for one in (many if isinstance(many, list) else [many])]
    about = [(name, one) for name, one in kept.items() if name not in ("ids", "do", "expect", "all")]
    return view.render(
        "confirm.html", "./", verb=verb, label=f"{what}{jobs}", count=count, hidden=hidden, about=about,
        ids=fields.get("ids"), back=back,
    )  # fmt: skip


async def _form(request: Request) -> dict[str, Any]:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM:
            raise Problem("bad-request", "the form is longer than 1 MB")
    fields: dict[str, Any] = {}
    try:
        given = parse_qsl(body.decode("utf-8", "replace"), max_num_fields=MAX_FIELDS)
    except ValueError:
        raise Problem("bad-request", f"the form has more than {MAX_FIELDS} fields") from None
    for name, text in given:
        if name == "ids":
            fields.setdefault("ids", []).append(text)
        else:
            fields[name] = text
    return fields


def _text(of: object) -> str | None:
    return of if isinstance(of, str) and of else None


def _with(back: str, word: str) -> str:
    path, _, query = back.partition("?")
    said = address("", {"said": word})[1:]
    return f"{path}?{query}&{said}" if query else f"{path}?{said}"


def _said(verb: str, answer: dict[str, Any], fields: dict[str, Any]) -> str:
    """Say in words what was done."""
    if verb in ("operation", "cancel_group"):
        many = f"{answer['verb']} {answer['total']:,} jobs"
        return f"Operation {answer['id']} has begun: {many}. Actions shows how far it is."
    if verb == "cancel":
        ending = "it was told, and ends by itself" if answer["status"] == "running" else f"it is {answer['status']}"
        return f"Job {answer['id']}: {ending}."
    about = ", ".join(f"{name} {one}" for name, one in answer.items() if one is not None)
    return f"{VERBS[verb].name.replace('_', ' ')}: {about}."
