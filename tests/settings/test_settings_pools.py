"""Several pools in one file and one environment."""

from pathlib import Path

import pytest
from settings.support import POOLS, only, refused

from aiopool import Retry
from aiopool.settings import PoolSettings


@pytest.mark.parametrize("suffix", POOLS)
def test_several_pools_in_one_file(suffix, monkeypatch):
    """The top is for all, a branch for one; chosen by argument or by AIOPOOL_POOL."""
    Path(f"a.{suffix}").write_text(POOLS[suffix])
    mail = PoolSettings.load(f"a.{suffix}", pool="mail")
    assert mail == PoolSettings.from_dict({"size": 4, "timeout": 5, "retry": {"attempts": 2}, "name": "mail"})
    line = {"yaml": " line 5", "toml": ", pools.mail", "json": ", pools.mail"}[suffix]
    assert mail.origins["size"] == f"a.{suffix}{line}"
    assert mail.origins["timeout"] == ("a.yaml line 2" if suffix == "yaml" else f"a.{suffix}")
    assert mail.origins["name"] == f"a.{suffix}, the name under pools"
    top = PoolSettings.load(f"a.{suffix}")
    assert (top.size, top.name, top.retry) == (3, "pool", None)
    web = PoolSettings.load(f"a.{suffix}", pool="web-eu")
    assert (web.size, web.name) == (3, "w")
    assert PoolSettings.load_all(f"a.{suffix}") == {
        "mail": mail,
        "web-eu": web,
        "idle": PoolSettings.from_dict({"size": 3, "timeout": 5, "name": "idle"}),
    }
    monkeypatch.setenv("AIOPOOL_POOL", "mail")
    assert PoolSettings.load(f"a.{suffix}") == mail
    assert PoolSettings.load(f"a.{suffix}", pool="web-eu") == web
    assert PoolSettings.load(f"a.{suffix}", pool="mail", name="x").name == "x"
    assert PoolSettings.load(f"a.{suffix}", size=9).create_pool().name == "mail"


def test_variables_for_one_pool(monkeypatch):
    """AIOPOOL_SIZE beats every file; AIOPOOL_POOLS__MAIL__SIZE beats AIOPOOL_SIZE, for this one."""
    Path("a.yaml").write_text(POOLS["yaml"])
    Path(".env").write_text("AIOPOOL_POOLS__MAIL__TIMEOUT=9\n")
    monkeypatch.setenv("AIOPOOL_SIZE", "20")
    monkeypatch.setenv("AIOPOOL_POOLS__MAIL__SIZE", "30")
    monkeypatch.setenv("AIOPOOL_POOLS__WEB_EU__RETRY__ATTEMPTS", "7")
    pools = PoolSettings.load_all("a.yaml")
    assert {name: one.size for name, one in pools.items()} == {"mail": 30, "web-eu": 20, "idle": 20}
    assert pools["web-eu"].retry == Retry(attempts=7)
    assert pools["mail"].timeout == 9
    assert pools["mail"].origins["size"] == "environment variable AIOPOOL_POOLS__MAIL__SIZE"
    assert pools["mail"].origins["timeout"] == ".env line 1, AIOPOOL_POOLS__MAIL__TIMEOUT"


def test_a_pool_of_variables_alone(monkeypatch):
    monkeypatch.setenv("AIOPOOL_POOLS__MAIL__SIZE", "30")
    monkeypatch.setenv("AIOPOOL_POOL", "mail")
    assert (PoolSettings().size, PoolSettings().name) == (30, "mail")


def test_no_such_pool(monkeypatch):
    Path("a.yaml").write_text(POOLS["yaml"])
    problem = only(PoolSettings.load, "a.yaml", pool="mial")
    assert (problem.name, problem.value, problem.source) == ("pool", "'mial'", "argument")
    assert problem.reason == "there is no such pool; there are mail, web-eu, idle; did you mean 'mail'?"
    assert "no source has settings under `pools`" in only(PoolSettings.load, pool="mail").reason
    monkeypatch.setenv("AIOPOOL_POOL", "mial")
    assert only(PoolSettings.load, "a.yaml").source == "environment variable AIOPOOL_POOL"
    monkeypatch.setenv("AIOPOOL_POOL", " ")
    assert "it is empty" in only(PoolSettings.load, "a.yaml").reason
    monkeypatch.delenv("AIOPOOL_POOL")
    monkeypatch.setenv("AIOPOOL_POOLS__MIAL__SIZE", "4")
    problem = only(PoolSettings.load, "a.yaml")
    assert problem.source == "environment variable AIOPOOL_POOLS__MIAL__SIZE"
    assert "did you mean 'mail'?" in problem.reason
    error = refused(PoolSettings.load, "none.yaml", pool="mail")  # the missing file is the reason, and the only one
    assert "file" in [problem.name for problem in error.problems]
    assert "pool" not in [problem.name for problem in error.problems]


def test_errors_in_pools():
    """Unknown names are refused in all of them, values where they are used; `load_all` uses all, and says each once."""
    Path("a.yaml").write_text("timeout: soon\npools:\n  a: {sise: 4}\n  b: {size: four}\n  c: {pools: {}}\n")
    found = refused(PoolSettings.load, "a.yaml").problems
    assert [problem.name for problem in found] == ["pools.a.sise", "pools.c.pools", "timeout"]
    assert "did you mean 'pools.a.size'?" in found[0].reason
    found = refused(PoolSettings.load_all, "a.yaml").problems
    assert [problem.name for problem in found] == ["pools.a.sise", "pools.c.pools", "timeout", "size"]
    for text in ("pools: [a]", "pools: 4", "pools: {a: 4}", "pools: {a: [4]}"):
        Path("a.yaml").write_text(text)
        assert "a mapping from the names of pools" in only(PoolSettings.load, "a.yaml").reason
    Path("a.yaml").write_text("pools:\n")
    assert PoolSettings.load("a.yaml") == PoolSettings()
    assert PoolSettings.load_all("a.yaml") == {}


def test_choosers_are_no_settings():
    """Who writes `pool:` into a file is told how a pool is chosen."""
    Path("a.yaml").write_text("pool: mail\nfile: b.yaml\n")
    first, second = refused(PoolSettings.load, "a.yaml").problems
    assert 'PoolSettings.load(pool="mail") or AIOPOOL_POOL=mail' in first.reason
    assert "AIOPOOL_FILE" in second.reason
