"""Each route, each method, each visitor: what somebody may not do is refused before anything is looked up."""

import asyncio

import pytest
from web_app import HOME, UNSAFE, by_header, client, filled, make_app, make_handlers, routes

import aiopool
import aiopool.inspection
import aiopool.web
from aiopool import Pool
from aiopool.web._target import Here

APP = make_app()
API = sorted({(method, path) for method, path in routes(APP) if path.startswith("/api/")})
ALL = sorted(set(routes(APP)))
CHANGING = [row for row in ALL if row[0] in UNSAFE]
LOOKING = [row for row in ALL if row[0] not in UNSAFE]
ADMIN = {("POST", "/api/v1/pools/{pool}/shutdown")}
# Results may be secrets.
NOT_FOR_READERS = {("GET", "/api/v1/pools/{pool}/jobs/{id}/result")}


async def ask(row, access, **headers):
    method, path = row
    kinds = {"content-type": "application/json"} if method in UNSAFE else {}
    async with client(APP, access, HOME, **(kinds | headers)) as visitor:
        return await visitor.request(method, filled(path), content=b"{}" if method in UNSAFE else None)


def test_the_table_of_routes_is_walked_whole():
    """The tests see every route of the app, and the schema describes every route of the API."""
    assert len(API) > 25
    described = {(method.upper(), path) for path, methods in APP.openapi()["paths"].items() for method in methods}
    assert described == set(API)


@pytest.mark.parametrize("row", ALL, ids=" ".join)
async def test_nobody_gets_in_unknown(row):
    """Without access each route answers 401, and says how to be known. (CVE-2022-30034, CVE-2023-48022)"""
    answer = await ask(row, None)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("row", CHANGING, ids=" ".join)
async def test_who_may_look_changes_nothing(row):
    """Read access is refused on every route that changes something. (CVE-2026-48592)"""
    answer = await ask(row, "read")
    assert (answer.status_code, answer.json()["type"]) == (403, "not-allowed")
    assert "read-only for you" in answer.json()["detail"]


@pytest.mark.parametrize("row", LOOKING, ids=" ".join)
async def test_who_may_look_looks(row):
    """Read access is enough for all that only looks, but for results of jobs."""
    answer = await ask(row, "read")
    assert (answer.status_code == 403) == (row in NOT_FOR_READERS), answer.text
    assert answer.status_code != 401


@pytest.mark.parametrize("row", ALL, ids=" ".join)
async def test_who_operates_may_do_all_but_end_the_pool(row):
    """Operate access is enough for everything but ending the pool; admin access for that, too."""
    answer = await ask(row, "operate")
    assert (answer.status_code == 403) == (row in ADMIN), answer.text
    answer = await ask(row, "admin")
    assert answer.status_code not in (401, 403), answer.text


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "PROPFIND", "LOCK", "TRACE", "post", "QUERY"])
@pytest.mark.parametrize("path", ["/", "/api/v1/pools", "/api/v1/pools/nobody/jobs/7", "/no/such/path"])
async def test_every_method_but_three_changes_something(method, path):
    """A method that nobody has thought of is guarded like POST, on any path. (CVE-2026-27482)"""
    answer = await ask((method, path), "read")
    assert answer.status_code == 403
    answer = await ask((method, path), "operate", origin="http://evil.example")
    assert (answer.status_code, answer.json()["type"]) == (403, "cross-site")


OTHER_SITES = {
    "another origin": {"origin": "http://evil.example"},
    "another port": {"origin": f"{HOME}:8081"},
    "another scheme": {"origin": "https://127.0.0.1"},
    "no origin": {"origin": "null"},
    "another site": {"sec-fetch-site": "cross-site"},
    "a neighbour": {"sec-fetch-site": "same-site"},
    "an unknown word": {"sec-fetch-site": "of-course"},
}


@pytest.mark.parametrize("row", CHANGING, ids=" ".join)
async def test_no_page_of_another_site_changes_anything(row):
    """A browser says from where a request comes, and what is not from here is refused. (OSVDB-125675, sidekiq 2422)"""
    for case, headers in OTHER_SITES.items():
        answer = await ask(row, "admin", **headers)
        assert (answer.status_code, answer.json()["type"]) == (403, "cross-site"), case


@pytest.mark.parametrize("row", CHANGING, ids=" ".join)
async def test_who_says_nothing_of_its_page_needs_a_token(row):
    """Neither header: a program, which sends its token with the request; a cookie alone is not enough."""
    method, path = row
    async with client(APP, "admin", HOME) as visitor:
        del visitor.headers["origin"]
        kinds = {"content-type": "application/json", "cookie": "session=1"}
        answer = await visitor.request(method, filled(path), content=b"{}", headers=kinds)
        assert (answer.status_code, answer.json()["type"]) == (403, "cross-site")
        assert "Authorization: Bearer" in answer.json()["detail"]
        answer = await visitor.request(
            method, filled(path), content=b"{}", headers=kinds | {"authorization": "Bearer x"}
        )
        assert answer.status_code != 403


@pytest.mark.parametrize("row", ALL, ids=" ".join)
async def test_a_foreign_name_of_the_server_is_refused(row):
    """DNS rebinding: the name is refused on each route, those that only look included, whoever asks.

    (CVE-2025-62593, CVE-2025-66414, CVE-2026-42559)
    """
    answer = await ask(row, "admin", host="evil.example:80", **{"user-agent": "curl/8"})
    assert answer.status_code == 403
    if row[0] != "HEAD":  # it has no body
        assert answer.json()["type"] == "host-not-allowed"
        assert "hosts=['evil.example']" in answer.json()["detail"]


@pytest.mark.parametrize(
    "host",
    ["", "a b", "127.0.0.1@evil.example", "127.0.0.1/", "127.0.0.1.evil.example", "[::1", "localhost:99999", "é"],
)
async def test_a_host_that_is_none_is_refused(host):
    """What is no name, or only begins like one of ours, is none of ours; no path is made of it. (CVE-2026-48710)"""
    answer = await ask(("GET", "/api/v1/pools"), "admin", host=host.encode("latin-1"))
    assert (answer.status_code, answer.json()["type"]) == (403, "host-not-allowed")


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:80", "10.0.0.7", "Pool.Internal:81"]
)
async def test_addresses_and_what_hosts_names_are_ours(host):
    """An address cannot be that of another site; a name is ours if we were told so."""
    app = make_app(hosts=["pool.internal"])
    async with client(app, "read", host=host) as visitor:
        assert (await visitor.get("/pools")).status_code == 200


async def test_two_hosts_are_none():
    """A request with two names is refused: who stands before us may have looked at the other one."""
    async with client(APP, "admin") as visitor:
        answer = await visitor.get("/pools", headers=[("host", "127.0.0.1"), ("host", "evil.example")])
    assert answer.json()["type"] == "host-not-allowed"


async def test_a_trusted_origin_may_steer():
    """A site that was named may; it is compared whole: nothing that only begins or ends like it may. (Flower)"""
    app = make_app(trusted_origins=["https://pool.example.org:443"])
    async with client(app, "operate") as visitor:
        for origin, status in {
            "https://pool.example.org": 404,
            "https://pool.example.org.evil.example": 403,
            "https://evil-pool.example.org": 403,
            "http://pool.example.org": 403,
        }.items():
            headers = {"origin": origin, "sec-fetch-site": "cross-site"}
            answer = await visitor.post("/pools/nobody/measure", headers=headers)
            assert answer.status_code == status, origin


async def test_loopback_is_no_authentication():
    """Who comes from this machine is asked like everybody: each page of a browser comes from there, too."""
    asked = []

    def access(request):
        asked.append(request.client.host)

    async with client(make_app(access=access)) as visitor:
        assert (await visitor.get("/pools")).status_code == 401
    assert asked == ["127.0.0.1"]


async def test_an_app_of_some_pools_shows_no_other():
    """`pools=`: a neighbour in the same process is not listed, not found on any route, page or stream."""
    gate = asyncio.Event()
    async with Pool(1, name="mine") as mine, Pool(1, name="other", keep_finished=9) as other:
        app = aiopool.web.create_app(
            pools=mine, access=lambda request: "admin", handlers=make_handlers(), shutdown=True
        )
        held = await other.submit(gate.wait)
        group = await other.with_options(group="g").submit(int)
        async with client(app, None, HOME) as visitor:
            assert (await visitor.get("/api/v1/")).json()["pools"] == ["mine"]
            assert [row["pool"] for row in (await visitor.get("/api/v1/pools")).json()["items"]] == ["mine"]
            assert (await visitor.get("/api/v1/pools/mine/events?limit=1")).status_code == 200
            for method, path in API:
                if "{pool}" not in path:
                    continue
                answer = await visitor.request(method, filled(path).replace("nobody", "other").replace("/7", "/1"))
                assert answer.status_code in (404, 422), (method, path)
                assert "other" not in answer.text.replace("'other'", ""), (method, path)
            bodies = {
                "jobs": {"function": "add", "params": {"a": 1}},
                "batches": {"jobs": [{"function": "add", "params": {"a": 1}}]},
                "operations": {"verb": "cancel", "filter": {}},
                "jobs/1/retry": {"params": {}},
            }
            for path, body in bodies.items():
                assert (await visitor.post(f"/api/v1/pools/other/{path}", json=body)).status_code == 404, path
            assert (await visitor.patch("/api/v1/pools/other/jobs/2", json={"timeout": 1})).status_code == 404
            taken = await visitor.post("/api/v1/jobs", json={"name": "add", "params": {"a": 1}})
            assert (taken.status_code, mine.statistics().submitted) == (200, 1)
            assert (await visitor.get("/api/v1/pools/mine/jobs/1")).status_code in (200, 410)
            for path in (path for method, path in ALL if method == "GET" and not path.startswith("/api/")):
                if "{" in path:
                    continue
                assert (await visitor.get(path)).status_code in (200, 422), path
                answer = await visitor.get(f"{path}?pool=other&id=1")
                assert answer.status_code == 404, path
                assert str(held.name) not in answer.text
            answer = await visitor.post("/do/pause", data={"pool": "other"})
            assert answer.status_code == 404
        assert (other.statistics().submitted, other.status, other.size, group.status) == (2, "open", 1, "queued")
        assert not aiopool.inspection.is_paused(other)
        gate.set()


async def test_pools_may_be_some_none_or_open_later():
    """What is no pool is refused with the line to write; an empty list shows none, and not all."""

    def app_of(**given):
        return aiopool.web.create_app(access=lambda request: "read", **given)

    async def shown(app):
        async with client(app, None) as visitor:
            return (await visitor.get("/")).json()["pools"]

    first, second = Pool(1, name="p"), Pool(1, name="p")
    both, late, none = app_of(pools=[first, second]), app_of(pools=iter([second])), app_of(pools=[])
    async with Pool(1, name="third"), first:
        assert await shown(both) == ["p"]
        assert await shown(late) == await shown(none) == []
        async with second:
            assert await shown(both) == ["p", "p-2"]
            assert await shown(late) == ["p-2"]
            assert await shown(app_of()) == ["third", "p", "p-2"]
    for wrong in ("mail", 7, [first, "mail"]):
        with pytest.raises(TypeError, match="give a Pool or a list of them"):
            app_of(pools=wrong)
    with pytest.raises(TypeError, match="write one of the two"):
        app_of(pools=first, target=Here())


def test_mounting_without_access_is_an_error_with_the_line_to_write():
    """Nothing is open by default. (CVE-2022-30034, CVE-2019-12105)"""
    with pytest.raises(TypeError, match=r"create_app\(\) needs access=(?s:.*)def access\(request\)") as caught:
        aiopool.web.create_app()
    assert "this machine proves nothing" in str(caught.value)
    with pytest.raises(TypeError, match="is no function"):
        aiopool.web.create_app(access="read")
    with pytest.raises(TypeError, match="hosts and trusted_origins are lists"):
        aiopool.web.create_app(access=by_header, hosts="pool.internal")
    with pytest.raises(ValueError, match="is no name of a server"):
        aiopool.web.create_app(access=by_header, hosts=["http://pool.internal/"])
    with pytest.raises(ValueError, match="is no origin"):
        aiopool.web.create_app(access=by_header, trusted_origins=["pool.internal"])
    with pytest.raises(TypeError, match=r"give an aiopool\.Handlers"):
        aiopool.web.create_app(access=by_header, handlers=[make_handlers()])


@pytest.mark.parametrize("said", ["root", True, 3, "READ", ["read"]])
async def test_an_access_function_that_says_nonsense_lets_nobody_in(said, caplog):
    """What is none of its words is no access, and logged."""
    async with client(make_app(access=lambda request: said)) as visitor:
        answer = await visitor.get("/pools")
    assert (answer.status_code, answer.json()["type"]) == (500, "error")
    assert "nobody is let in" in answer.json()["detail"]
    assert "access() has failed" in caplog.text


async def test_an_access_function_may_wait_name_somebody_and_send_them_elsewhere():
    """It may be async; whom it names stands in the log of actions; a redirect of it is one."""
    from starlette.exceptions import HTTPException

    async def access(request):
        if "x-name" not in request.headers:
            raise HTTPException(303, headers={"location": "/login"})
        request.state.who = request.headers["x-name"]
        return "operate"

    async with Pool(1, name="named") as pool, client(make_app(access=access)) as visitor:
        answer = await visitor.get("/pools")
        assert (answer.status_code, answer.headers["location"]) == (303, "/login")
        await visitor.patch("/pools/named", json={"paused": True}, headers={"x-name": "ada"})
        assert (await visitor.get("/", headers={"x-name": "eve"})).json()["who"] == "eve"
        found = (await visitor.get("/pools/named/actions", headers={"x-name": "eve"})).json()["items"]
        assert [(one["who"], one["verb"]) for one in found] == [("ada", "pause")]
        assert (await visitor.get("/pools/named", headers={"x-name": "eve"})).json()["paused_by"]["who"] == "ada"
        pool.resume()


async def test_what_another_middleware_has_left_is_no_access():
    """`request.state.access` is what access() says of this request, and nothing that was there before."""
    app = make_app(access=lambda request: None)

    async def around(scope, receive, send):
        scope["state"] = {"access": "admin", "who": "root"}
        await app(scope, receive, send)

    async with client(around) as visitor:
        assert (await visitor.get("/pools")).status_code == 401


@pytest.mark.parametrize(
    "path", ["/api/v1/", "/api/v1/pools/nobody", "/api/v1/pools?x=1", "/no/such", "/docs", "/redoc"]
)
@pytest.mark.parametrize("access", [None, "read"])
async def test_each_answer_has_the_headers(path, access):
    """No inline script, no frame, no sniffing, nothing kept; refusals included. Nothing loads from elsewhere."""
    answer = await ask(("GET", path), access)
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert answer.headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in answer.headers
    assert "jsdelivr" not in answer.text
    if access and path in ("/docs", "/redoc", "/no/such"):
        assert answer.status_code == 404


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{}", "text/plain", 415),
        (b"{}", "application/x-www-form-urlencoded", 415),
        (b"{}", "multipart/form-data; boundary=x", 415),
        (b"{}", "", 415),
        (b"x" * (2**20 + 1), "application/json", 413),
        (b"[" * 100_000, "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b'{"size": 1e400}', "application/json", 422),
        (b'{"size": NaN}', "application/json", 422),
        (b'{"size": 8, "\\ud800": 1}', "application/json", 422),
        (b'{"paused": true, "unknown": 1}', "application/json", 422),
    ],
)
async def test_a_body_is_json_and_not_too_long(content, kind, status):
    """What a form of another site could send is no JSON; what is too long, too deep or broken is refused in words."""
    async with client(APP, "admin") as visitor:
        answer = await visitor.patch("/pools/nobody", content=content, headers={"content-type": kind})
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert set(answer.json()) >= {"type", "title", "status", "detail"}


async def test_a_body_that_does_not_say_how_long_it_is_is_measured():
    """Chunks are counted as they come."""

    async def chunks():
        for _ in range(64):
            yield b"x" * 2**15

    async with client(APP, "admin") as visitor:
        answer = await visitor.patch("/pools/nobody", content=chunks(), headers={"content-type": "application/json"})
    assert answer.status_code == 413


def bounds(schema, place=""):
    """Each number, text and list of a schema that has no maximum."""
    if isinstance(schema, list):
        for one in schema:
            yield from bounds(one, place)
    elif isinstance(schema, dict):
        kind = schema.get("type")
        if kind in ("integer", "number") and not ({"maximum", "exclusiveMaximum"} & set(schema)):
            yield place
        if kind == "string" and not ({"maxLength", "enum", "const", "format"} & set(schema)):
            yield place
        if kind == "array" and "maxItems" not in schema:
            yield place
        for name, inner in schema.items():
            if name not in ("description", "title", "default", "enum", "required"):
                yield from bounds(inner, f"{place}/{name}")


def test_every_number_that_is_sent_has_a_maximum():
    """In the schema: numbers, texts and lists of all parameters and bodies. (CVE-2026-48593, CVE-2022-23837)"""
    document = APP.openapi()
    sent = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            sent[f"{method} {path}"] = [operation.get("parameters", []), operation.get("requestBody", {})]
    kinds = document["components"]["schemas"]
    answered = {"ProblemView", "PoolView", "JobView", "JobPage", "Submitted", "JobResult", "Listing", "OperationView"}
    answered |= {"Changed", "PlainQueued", "PlainCancelled", "PlainStatistics"}
    sent |= {name: kind for name, kind in kinds.items() if name not in answered}
    assert {"Submission", "Change", "Many", "Batch"} <= set(sent)
    assert list(bounds(list(sent.values()))) == [], [name for name, one in sent.items() if list(bounds(one))]
    assert list(bounds({"type": "integer"})) == [""]


async def test_every_problem_is_declared_and_in_one_form():
    """Each route says 401, 403, 404, 422 and what it can answer itself; 422 is a problem, not FastAPI's own shape."""
    document = APP.openapi()
    assert "HTTPValidationError" not in document["components"]["schemas"]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert {"401", "403", "422", "500"} <= set(operation["responses"]), (method, path)
            for status, response in operation["responses"].items():
                if status >= "400":
                    assert list(response["content"]) == ["application/problem+json"], (method, path, status)
                    if "health" not in path:
                        assert response["description"]


async def test_names_of_hostile_jobs_stay_data():
    """Names, groups and errors of script, NUL and half a character come back as JSON, which is no page."""
    name = '"><script>alert(1)</script>\0\u202e\ud800'
    async with Pool(1, name="p", keep_finished=10) as pool, client(make_app(), "read") as visitor:
        job = await pool.with_options(name=name, group="<b>g</b>").submit(ValueError, name)
        await job
        answer = await visitor.get("/pools/p/jobs?status=succeeded")
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.json()["items"][0]["name"] == name
        answer = await visitor.get("/pools/p/jobs/" + "%3Cscript%3E%00%E2%80%AE")
        assert answer.headers["content-type"] == "application/problem+json"


async def test_no_name_breaks_a_line_of_the_log(caplog):
    """What a visitor sends stands in one line of the log, whatever is in it. (CRLF in logs)"""
    caplog.set_level("INFO", "aiopool")
    async with Pool(1, name="p") as pool, client(make_app(), "operate") as visitor:
        answer = await visitor.post("/pools/p/groups/a%0D%0Aroot:%20all%20is%20well/pause")
        assert answer.status_code == 200, answer.text
        await visitor.post("/pools/p/groups/a%0D%0Aroot:%20all%20is%20well/resume")
        assert not pool.jobs()
    lines = [record.getMessage() for record in caplog.records if "pause" in record.getMessage()]
    assert len(lines) == 1
    assert lines[0].isprintable()


async def test_sockets_of_the_web_are_refused():
    """There is no WebSocket here, so there is none that skips the guard."""
    sent = []

    async def send(message):
        sent.append(message)

    await APP({"type": "websocket", "path": "/api/v1/pools", "headers": [], "query_string": b""}, None, send)
    assert [message["type"] for message in sent] == ["websocket.close"]
