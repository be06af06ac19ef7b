"""Values: what is signed, what can be sent, what a handler's end means, what a worker can be told."""

import dataclasses
import datetime
import decimal
import enum
import hashlib
import hmac
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_server import signature

from aiopool import Limit, Pool
from aiopool.avtomatika import TaskError, Worker
from aiopool.avtomatika._handlers import Handlers
from aiopool.avtomatika._outcome import cancelled, failed, returned
from aiopool.avtomatika._plain import NotPlainError, plain
from aiopool.avtomatika._resources import told_resources
from aiopool.avtomatika._settings import read_settings
from aiopool.avtomatika._signing import canonical, sign, verify
from aiopool.avtomatika._task import NotATaskError, read_task
from aiopool.errors import SettingsError

TASK = read_task({"task_id": "t1", "job_id": "j1", "type": "parse", "params": {"a": 1}})


# -- signatures (C3) ---------------------------------------------------------------------------------------------------


def test_the_canonical_text():
    """Null left out at any depth, whole floats as integers, keys sorted, no spaces, UTF-8; no signature in it."""
    body = {
        "z": None, "b": 2.0, "a": [{"y": None, "x": 1.5}, None], "ü": "ж/\"", "t": True,
        "security": {"signature": "s"}, "_signature": "s", "bubbling_chain": [],
    }  # fmt: skip
    text = '{"a":[{"x":1.5},null],"b":2,"t":true,"ü":"ж/\\""}'
    assert canonical(body, ("bubbling_chain",)) == text.encode()


def test_signature_vectors():
    """The signature is HMAC-SHA256 of that text, in hexadecimal digits."""
    assert sign({"a": 1}, "key") == hmac.new(b"key", b'{"a":1}', hashlib.sha256).hexdigest()
    # By `openssl dgst -sha256 -hmac worker-token`, of {"status":"success","task_id":"t","timestamp":1700000000}
    body = {"task_id": "t", "timestamp": 1700000000, "status": "success", "data": None}
    assert sign(body, "worker-token") == "b6358ac457ba8936e698fadae503afd1c1ed37ce2be66320607b855f805d0307"


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=8,
)


@settings(max_examples=30)
@given(st.dictionaries(TEXT, JSON))
def test_signatures_agree_with_the_rule_in_other_words(body):
    """For any body; and one that was changed has another."""
    made = sign(body, "worker-token")
    assert made == signature(body)
    assert verify(body, made, "worker-token")
    assert not verify({**body, "more": 1}, made, "worker-token")
    assert not verify(body, made, "another-token")


# -- what can be sent --------------------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    y: float


def test_usual_values_become_json():
    """Rows of a database hold dates, UUIDs and decimals."""
    moment = datetime.datetime(2026, 11, 29, 12, 30, tzinfo=datetime.UTC)
    number = uuid.UUID(int=7)
    value = {
        "at": moment, "day": moment.date(), "id": number, "price": decimal.Decimal("1.10"), "colour": Colour.RED,
        "point": Point(1, 2.5), "pair": (1, 2), "set": {3}, 4: "int key", Colour.RED: 0, "big": 2**63, "none": None,
    }  # fmt: skip
    assert plain(value) == {
        "at": "2026-11-29T12:30:00+00:00", "day": "2026-11-29", "id": str(number), "price": "1.10", "colour": "red",
        "point": {"x": 1, "y": 2.5}, "pair": [1, 2], "set": [3], "4": "int key", "red": 0, "big": 2**63, "none": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"user": {"photo": b"\xff"}}, "data.user.photo is b'\\xff' (bytes)"),
        ({"rows": [1, object]}, "data.rows[1] is"),
        ({"ratio": float("nan")}, "data.ratio is nan"),
        ({"count": 2**64}, "beyond 64 bits"),
        ({"count": 1e300}, "beyond 64 bits"),
        ({"text": "\ud800"}, "half a surrogate"),
        ({("a", "b"): 1}, "keys are texts"),
    ],
)
def test_what_the_orchestrator_would_never_take_is_an_error_that_names_the_place(value, where):
    """It answers such a body with an error each time it comes."""
    with pytest.raises(NotPlainError) as caught:
        plain(value)
    assert where in str(caught.value)
    result = returned(TASK, {"status": "success", "data": value})
    assert result.status == "failure"
    assert result.error["code"] == "INTERNAL_ERROR"
    assert where in result.error["message"]


def test_too_deep_is_an_error():
    """A list that holds itself is one, too."""
    value = []
    value.append(value)
    with pytest.raises(NotPlainError, match="nested more than 24"):
        plain(value)


# -- what a handler's end means (C-06, C-07, C-12) ---------------------------------------------------------------------


def test_statuses():
    """Success with and without data; what is no dict with a status is data; another status is a transition's name."""
    assert returned(TASK, {"status": "success", "data": {"a": 1}}).body() == {
        "task_id": "t1", "job_id": "j1", "status": "success", "data": {"a": 1}
    }  # fmt: skip
    assert returned(TASK, {"status": "success"}).data is None
    assert returned(TASK, None).body() == {"task_id": "t1", "job_id": "j1", "status": "success"}
    assert returned(TASK, {"rows": 3}).data == {"rows": 3}
    assert returned(TASK, [1, 2]).data == {"result": [1, 2]}
    assert returned(TASK, {"status": "success", "data": 5}).data == {"result": 5}
    assert returned(TASK, {"status": "needs_review", "data": {"a": 1}}).status == "needs_review"
    assert cancelled(TASK, "why").status == "cancelled"


@pytest.mark.parametrize(
    ("code", "sent"),
    [
        ("VALIDATION_ERROR", "INVALID_INPUT_ERROR"),
        ("NOT_FOUND", "INVALID_INPUT_ERROR"),
        ("TIMEOUT", "TIMEOUT_ERROR"),
        ("CONNECTION_ERROR", "CONNECTION_ERROR"),
        ("API_ERROR", "API_ERROR"),
        ("PERMANENT_ERROR", "PERMANENT_ERROR"),
    ],
)
def test_codes_mean_to_the_orchestrator_what_they_say(code, sent):
    """A failure of the caller's input is not tried again; the handler's own word stays in the details."""
    error = returned(TASK, {"status": "failure", "error": {"code": code, "message": "no"}}).error
    assert error["code"] == sent
    assert error["message"] == "no"
    assert error.get("details", {"code": code}) == {"code": code}
    assert failed(TASK, TaskError("no", code=code)).error == error


def test_retry_is_a_failure_that_the_orchestrator_tries_again():
    """Whatever its code is; or a transition, if the blueprint has one."""
    told = {"status": "retry", "error": {"code": "CONNECTION_ERROR", "message": "gone"}}
    assert returned(TASK, told).status == "failure"
    assert returned(TASK, told).error == {"code": "CONNECTION_ERROR", "message": "gone"}
    told["error"]["code"] = "NOT_FOUND"
    assert returned(TASK, told).error["code"] == "TRANSIENT_ERROR"
    assert returned(TASK, told).error["details"] == {"code": "NOT_FOUND"}
    assert returned(TASK, told, "retry").status == "retry"
    assert returned(TASK, {"status": "retry"}).error["code"] == "TRANSIENT_ERROR"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("required_field is missing"), "INVALID_INPUT_ERROR"),
        (RuntimeError("required_field is missing"), "TRANSIENT_ERROR"),
        (TimeoutError("required_field is missing"), "TIMEOUT_ERROR"),
        (MemoryError("required_field is missing"), "RESOURCE_EXHAUSTED_ERROR"),
    ],
)
def test_an_exception_is_a_failure_with_its_text(error, code):
    """And a code by its class."""
    result = failed(TASK, error)
    assert result.status == "failure"
    assert result.error == {"code": code, "message": "required_field is missing"}
    assert failed(TASK, KeyError()).error["message"] == "KeyError"
    assert failed(TASK, RuntimeError("\ud800")).error["message"] == "?"


def test_details_that_cannot_be_sent_do_not_lose_the_error():
    """The error is what matters."""
    error = failed(TASK, TaskError("no", code="API_ERROR", details={"body": b""})).error
    assert error["code"] == "API_ERROR"
    assert "details.body" in error["details"]["not_sent"]


# -- tasks and handlers (C-04) -----------------------------------------------------------------------------------------


def test_a_task_has_ids_and_a_type():
    """Anything else is not run."""
    with pytest.raises(NotATaskError, match="task_id, job_id and type"):
        read_task({"task_id": "t", "type": "x"})
    task = read_task({"task_id": "t", "job_id": "j", "type": "x", "params": None, "deadline": 5, "priority": "high"})
    assert (task.params, task.deadline, task.priority, task.signed) == ({}, 5.0, 0.0, None)


def test_the_signature_of_a_task():
    """It covers what was there when it was made; the orchestrator adds some members later."""
    body = {"task_id": "t", "job_id": "j", "type": "x", "params": {"a": 1.0}}
    body["sig"] = sign(body, "secret", ("sig",))
    assert read_task(body, "secret").signed
    assert read_task({**body, "skill_version": "1", "security": {}}, "secret").signed
    assert read_task({**body, "params": {"a": 2}}, "secret").signed is False
    assert read_task({"task_id": "t", "job_id": "j", "type": "x"}, "secret").signed is False


def test_handlers_get_what_they_declare():
    """`params` first, by whatever name; the others by theirs; `**more` gets them all."""
    handlers = Handlers()
    seen = {}

    def add(name, function):
        handlers.add(name, None, function, {})
        args, kwargs = handlers.get(name).arguments(TASK)
        seen[name] = function(*args, **kwargs)

    add("params", lambda params: params)
    add("other name", lambda data: data)
    add("nothing", lambda: "nothing")
    add("ids", lambda params, task_id=None, job_id=None: (params, task_id, job_id))
    add("job only", lambda params, *, job_id: job_id)
    add("no params", lambda task_id: task_id)
    add("own default", lambda params, colour="red": colour)
    add("all", lambda params, **more: sorted(more))
    assert seen == {
        "params": {"a": 1},
        "other name": {"a": 1},
        "nothing": "nothing",
        "ids": ({"a": 1}, "t1", "j1"),
        "job only": "j1",
        "no params": "t1",
        "own default": "red",
        "all": ["deadline", "job_id", "metadata", "priority", "task_id", "tracing_context"],
    }


def worker(**settings):
    return Worker("http://localhost:8000", worker_id="w", worker_token="secret", **settings)


def test_a_handler_that_cannot_be_called_is_an_error_where_it_is_registered():
    """And so are a name that is taken, and a decorator without one."""
    made = worker()
    with pytest.raises(TypeError, match="the parameter 'user'"):
        made.task("a")(lambda params, user: None)
    made.task("a")(lambda params: None)
    with pytest.raises(ValueError, match="stands above two functions"):
        made.task("a")(lambda params: None)
    with pytest.raises(TypeError, match=r"write @worker.task\('name'\)"):
        made.task(lambda params: None)
    with pytest.raises(ValueError, match="without commas"):
        made.task("a,b")
    with pytest.raises(ValueError, match="timeout"):
        made.task("b", timeout=-1)

    def function(params):
        return params

    assert made.task("c")(function) is function


# -- settings (C-02, C-03, C-10) ---------------------------------------------------------------------------------------


def test_arguments_win_over_the_environment_and_that_over_defaults():
    """All variables of the guide."""
    environ = {
        "ORCHESTRATOR_URL": "https://there:8000/", "WORKER_ID": "worker-1", "WORKER_TOKEN": "secret",
        "WORKER_TYPE": "my-service", "HEARTBEAT_INTERVAL": "15", "POLL_INTERVAL": "0.5", "MAX_CONCURRENT_TASKS": "4",
    }  # fmt: skip
    settings, named = read_settings({"worker_type": "other", "poll_interval": 2}, environ)
    assert named
    assert (settings.orchestrator_url, settings.worker_id, settings.worker_type) == (
        "https://there:8000", "worker-1", "other"
    )  # fmt: skip
    assert (settings.heartbeat_interval, settings.poll_interval, settings.max_concurrent_tasks) == (15, 2, 4)
    settings, named = read_settings({"worker_token": "secret"}, {"WORKER_ID": ""})
    assert not named
    assert settings.worker_id
    assert settings.orchestrator_url == "http://localhost:8000"
    assert (settings.heartbeat_interval, settings.poll_interval, settings.max_concurrent_tasks) == (30, 1, 10)
    assert "secret" not in repr(settings)


def test_all_that_is_wrong_is_told_at_once():
    """With the name, the value but for secrets, where it came from and what is allowed."""
    environ = {
        "ORCHESTRATOR_URL": "localhost:8000",
        "WORKER_ID": "a.b",
        "POLL_INTERVAL": "0",
        "MAX_CONCURRENT_TASKS": "x",
    }
    with pytest.raises(SettingsError) as caught:
        read_settings({"worker_token": "sec ret"}, environ)
    assert {problem.name for problem in caught.value.problems} == {
        "orchestrator_url", "worker_id", "worker_token", "poll_interval", "max_concurrent_tasks"
    }  # fmt: skip
    assert "environment variable WORKER_ID" in str(caught.value)
    assert "sec ret" not in str(caught.value)
    with pytest.raises(SettingsError, match="set WORKER_TOKEN"):
        read_settings({}, {})


@pytest.mark.parametrize(
    "wrong",
    [
        {"task_type_limits": {"heavy": 0}},
        {"task_type_limits": {"heavy": True}},
        {"retry_as": "again"},
        {"delivery_timeout": -1},
        {"max_waiting_tasks": 0},
        {"max_concurrent_tasks": 3, "pool": Pool(3)},
        {"task_type_limits": {"heavy": 1}, "pool": Pool(3)},
    ],
)
def test_arguments_are_checked(wrong):
    """Where they are given."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        worker(**wrong)


def test_a_pool_of_ones_own_and_a_limit_with_a_rate():
    """The pool's size is what counts."""
    made = worker(pool=Pool(3))
    assert made.settings.max_concurrent_tasks == 3
    assert made.pool.size == 3
    worker(task_type_limits={"heavy": Limit(max_per_second=5)})


def test_ellipsis_is_the_environment(monkeypatch):
    """The guide writes `Worker(..., task_type_limits=...)`."""
    monkeypatch.setenv("ORCHESTRATOR_URL", "http://there:1")
    monkeypatch.setenv("WORKER_TOKEN", "secret")
    assert Worker(..., task_type_limits={"heavy": 2}).settings.orchestrator_url == "http://there:1"


def test_a_results_file_needs_a_name_that_stays(tmp_path, monkeypatch):
    """Else the next run would not find what is in it."""
    monkeypatch.delenv("WORKER_ID", raising=False)
    with pytest.raises(SettingsError, match="set WORKER_ID"):
        Worker(worker_token="secret", results_file=tmp_path / "results.db")


async def test_a_worker_without_a_handler_or_with_a_limit_of_nothing():
    """Both are errors of the program, told before anything is sent."""
    with pytest.raises(RuntimeError, match="has no handler"):
        await worker().main()
    made = worker(task_type_limits={"heavvy": 2})
    made.task("a", task_type="heavy")(lambda params: None)
    with pytest.raises(SettingsError, match="'heavvy'"):
        await made.main()
    assert await made.stop() is None


def test_resources_are_told_in_both_vocabularies():
    """So that a blueprint finds the worker by either."""
    told = told_resources({"cpu": 4, "memory_gb": 16, "gpu": True, "gpu_memory_gb": 8})
    assert told == {
        "properties": {"cpu": 4, "cpu_cores": 4, "memory_gb": 16, "ram_gb": 16, "gpu": True, "gpu_memory_gb": 8},
        "devices": [{"type": "gpu", "properties": {"memory_gb": 8}}],
    }
    assert told_resources(None) == {}
    assert told_resources({"gpu": "RTX 4090"})["devices"] == [{"type": "gpu", "model": "RTX 4090"}]
    own = [{"type": "gpu", "model": "A100"}]
    assert told_resources({"gpu": True, "devices": own})["devices"] == own
    with pytest.raises(TypeError, match=r"resources\.cpu"):
        told_resources({"cpu": object()})
