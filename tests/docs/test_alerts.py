"""What the docs ship for Prometheus and Grafana, run by Prometheus itself: alert rules, their tests, every query."""

import asyncio
import contextlib
import copy
import json
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry, start_http_server

from aiopool import Pool, Retry
from aiopool.instrumentation.prometheus import PoolCollector, SystemCollector

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations"
RULES = yaml.safe_load((OPERATIONS / "alerts.yml").read_text())
DASHBOARD = json.loads((OPERATIONS / "dashboard.json").read_text())
SCRAPING = yaml.safe_load((OPERATIONS / "prometheus.yml").read_text())
HOW_TO = (OPERATIONS.parent / "how-to" / "metrics.md").read_text()
ALERTS = {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"]}
QUERIES = {
    f"{panel['title']} {target['refId']}": target["expr"]
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", ())
}

promtool, prometheus = shutil.which("promtool"), shutil.which("prometheus")
needs_promtool = pytest.mark.skipif(
    promtool is None, reason="promtool is not installed (Debian: apt-get install prometheus)"
)
needs_prometheus = pytest.mark.skipif(
    prometheus is None, reason="prometheus is not installed (Debian: apt-get install prometheus)"
)


def run_promtool(*args, cwd=OPERATIONS):
    return subprocess.run([promtool, *args], cwd=cwd, capture_output=True, text=True, timeout=60)


# -- alert rules -------------------------------------------------------------------------------------------------------


@needs_promtool
def test_the_rules_are_rules():
    """Prometheus reads them, and finds nothing to say."""
    done = run_promtool("check", "rules", "--lint=all", "--lint-fatal", "alerts.yml")
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_the_rules_fire_where_they_should():
    """Their unit tests, on made-up data."""
    done = run_promtool("test", "rules", "alerts_test.yml")
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
@pytest.mark.parametrize("fires", ["always", "never"])
def test_the_unit_tests_can_fail(fires, tmp_path):
    """Rules that always fire, and such that never do, break the tests of each alert: each is tested both ways."""
    rules = copy.deepcopy(RULES)
    for group in rules["groups"]:
        for rule in group["rules"]:
            rule["expr"] = 'count by (pool) ({__name__=~"aiopool_.+"}) > 0' if fires == "always" else "vector(0) > 1"
            if fires == "always":
                rule.pop("for", None)
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(rules))
    shutil.copy(OPERATIONS / "alerts_test.yml", tmp_path)
    done = run_promtool("test", "rules", "alerts_test.yml", cwd=tmp_path)
    assert done.returncode == 1
    failures = re.findall(
        r"alertname: (\w+), time: .*?exp:\[(.*?)\],\s*got:\[(.*?)\]\n", done.stdout + done.stderr, re.DOTALL
    )
    more, fewer = set(), set()  # the alerts that fired where they should not, and that did not where they should
    for alert, expected, got in failures:
        surplus = got.count("Labels:") - expected.count("Labels:")
        more |= {alert} if surplus > 0 else set()
        fewer |= {alert} if surplus < 0 else set()
    assert (more, fewer) == ((set(ALERTS), set()) if fires == "always" else (set(), set(ALERTS)))


def exported():
    """The names of all metrics, as they stand in a scrape; a histogram's with and without its endings."""
    names = set()
    for collector in (PoolCollector(), SystemCollector()):
        for family in collector.describe():
            suffixes = {"counter": ("_total",), "gauge": ("",), "histogram": ("", "_bucket", "_sum", "_count")}
            names |= {family.name + suffix for suffix in suffixes[family.type]}
    return names


@pytest.mark.parametrize("name", [*ALERTS, *QUERIES])
def test_only_metrics_that_there_are(name):
    """Every metric that a rule or a panel names is one that a collector exports."""
    text = ALERTS[name]["expr"] if name in ALERTS else QUERIES[name]
    named = set(re.findall(r"\baiopool_\w+", text))
    assert named
    assert named <= exported()


# -- the page ----------------------------------------------------------------------------------------------------------


def test_the_page_names_every_metric_and_no_other():
    """The table of the how-to page is complete, and whatever the page names is exported."""
    text = HOW_TO.replace("`_queued`", "`aiopool_jobs_queued`").replace("`_scheduled`", "`aiopool_jobs_scheduled`")
    text = text.replace("`_leaked`", "`aiopool_jobs_leaked`")
    text = re.sub(r"`_(\w+)(\{[\w,]+\})?`", r"`aiopool_system_\1`", text)
    named = set(re.findall(r"\baiopool_\w+", text))
    assert named <= exported()
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in exported()} <= named


# Names of the metrics, of the alerts and of what else can be watched in the systems that this one replaces.
THEIRS = """
    arcade_jobs_submitted_total arcade_jobs_completed_total arcade_jobs_failed_total arcade_active_workers
    arcade_queued_tasks arcade_max_workers total_cancelled average_exec_time
    wp_task_queue_buffer_len_vec wp_add_task_wait_count_vec wp_worker_process_count_vec
    wp_task_process_duration_ms_by_name JobQueueBacklog HighJobFailureRate HighWorkerUtilization
    worker_tasks_total worker_task_duration_seconds tasks_submitted tasks_retrieved tasks_dropped queue_overflows
    current_size max_size_reached average_wait_time max_wait_time average_execution_time total_retries
"""


def test_the_page_says_what_replaces_what():
    """Every name of theirs has a row with one of ours, a metric or an alert that there is."""
    table = HOW_TO.partition("## Coming from another pool")[2]
    rows = dict(re.findall(r"^\| (.+?) \| (.+) \|$", table, re.MULTILINE))
    for name in THEIRS.split():
        [ours] = [right for left, right in rows.items() if re.search(rf"`{name}\b", left)]
        alerts = set(re.findall(r"\bAiopool\w+", ours))
        metrics = set(re.findall(r"\baiopool_\w+", ours))
        assert alerts or metrics
        assert alerts <= set(ALERTS)
        assert metrics <= exported()


# -- files to start from -----------------------------------------------------------------------------------------------


@needs_promtool
def test_the_scraping_is_a_configuration():
    """Prometheus reads prometheus.yml as it lies there, with the rules beside it."""
    done = run_promtool("check", "config", "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(ALERTS)} rules found" in done.stdout + done.stderr


def test_the_ports_of_the_page_are_those_that_are_scraped():
    """The workers of the how-to page, and the targets of prometheus.yml."""
    [ports] = re.findall(r"ports=range\((\d+), (\d+)\)", HOW_TO)
    [workers] = [job for job in SCRAPING["scrape_configs"] if job["job_name"] == "workers"]
    assert workers["static_configs"] == [{"targets": [f"127.0.0.1:{port}" for port in range(*map(int, ports))]}]


def test_grafana_finds_the_dashboard_and_the_data():
    """The provisioning files are of the form that Grafana documents, and agree with the page and with the others."""
    [source] = yaml.safe_load((OPERATIONS / "grafana" / "datasource.yml").read_text())["datasources"]
    [provider] = yaml.safe_load((OPERATIONS / "grafana" / "dashboards.yml").read_text())["providers"]
    [variable] = [row for row in DASHBOARD["templating"]["list"] if row["name"] == "datasource"]
    assert (source["type"], source["isDefault"]) == (variable["query"], True)
    assert source["jsonData"]["timeInterval"] == SCRAPING["global"]["scrape_interval"]
    assert provider["type"] == "file"
    assert f"`{provider['options']['path']}/aiopool.json`" in HOW_TO
    for name in ("datasource", "dashboards"):
        text = (OPERATIONS / "grafana" / f"{name}.yml").read_text()
        assert "apiVersion: 1" in text
        [path] = re.findall(r"/etc/grafana/provisioning/\S+?\.yml", text)
        assert f"| [`grafana/{name}.yml`](../operations/grafana/{name}.yml) | `{path}` |" in HOW_TO


# -- a pool under load, scraped by a real Prometheus -------------------------------------------------------------------


async def fetch(seconds):
    await asyncio.sleep(seconds)


async def flaky():
    await asyncio.sleep(0.01)
    raise ConnectionError


async def stubborn(stop):
    while not stop.is_set():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.05)


async def load(pool, stop):
    """Jobs of every kind, more than there is room for: good, failing, tried again, late, cancelled, in threads."""
    leaked = await pool.submit(stubborn, stop)
    await asyncio.sleep(0.05)
    await pool.cancel(leaked.id)
    first = pool.with_options(priority=0)

    def offer(view, function, *args):
        with contextlib.suppress(asyncio.QueueFull):
            return view.submit_nowait(function, *args)

    while not stop.is_set():
        offer(first, flaky)
        offer(first.with_options(retry=Retry(attempts=2, delay=0.05)), flaky)
        offer(first.with_options(timeout=0.05), fetch, 1)
        offer(first.with_options(delay=0.2), fetch, 0.01)
        offer(first, time.sleep, 0.02)
        if job := offer(first, fetch, 1):
            job.cancel()
        for priority in (1, 5):
            for seconds in (0.01, 0.05, 0.2):
                offer(pool.with_options(priority=priority), fetch, seconds)
        await asyncio.sleep(0.1)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def scraped(tmp_path_factory):
    """A Prometheus that has scraped a pool under load for a while: call it with a path and parameters of its API."""
    folder = tmp_path_factory.mktemp("prometheus")
    stop, ready = threading.Event(), threading.Event()
    ports = {}

    async def program():
        async with Pool(4, 20, name="mail", overflow="reject", cancel_grace=0.1, on_error=lambda *_: None) as pool:
            registry = CollectorRegistry()
            registry.register(PoolCollector(pool))
            registry.register(SystemCollector())
            server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
            ports["pool"] = server.server_port
            ready.set()
            try:
                await load(pool, stop)
            finally:
                server.shutdown()
                thread.join()
                server.server_close()

    pool_thread = threading.Thread(target=asyncio.run, args=(program(),))
    pool_thread.start()
    ready.wait(30)
    port = free_port()
    # The file that we ship, with the program of this test as its only target, and in a hurry.
    config = copy.deepcopy(SCRAPING)
    config["global"] = {"scrape_interval": "200ms", "evaluation_interval": "200ms"}
    for job in config["scrape_configs"]:
        targets = [f"127.0.0.1:{ports['pool']}"] if job["job_name"] == "app" else []
        job["static_configs"] = [{"targets": targets}]
    shutil.copy(OPERATIONS / "alerts.yml", folder)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    output = (folder / "output.txt").open("w")
    process = subprocess.Popen(
        [
            prometheus,
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=output,
        stderr=subprocess.STDOUT,
    )

    def ask(path, **parameters):
        url = f"http://127.0.0.1:{port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=30) as response:
            return json.load(response)["data"]

    try:
        until = time.monotonic() + 60
        while True:
            assert process.poll() is None, (folder / "output.txt").read_text()
            try:
                seen = ask("query", query="count_over_time(aiopool_size[1m])")["result"]
                if seen and float(seen[0]["value"][1]) >= 8:
                    break
            except OSError:
                pass  # it is starting: nobody listens yet, or it says that it is not ready
            assert time.monotonic() < until, (folder / "output.txt").read_text()
            time.sleep(0.2)  # a process of its own: there is nothing to wait on
        yield ask
    finally:
        process.terminate()
        process.wait(30)
        output.close()
        stop.set()
        pool_thread.join(30)


@needs_prometheus
@pytest.mark.long
@pytest.mark.parametrize("name", QUERIES)
def test_every_query_of_the_dashboard_has_an_answer(name, scraped):
    """Each panel's query, as Grafana would send it, gives a number for the pool under load."""
    query = QUERIES[name].replace("$pool", ".*").replace("$__rate_interval", "30s")
    assert "$" not in query
    try:
        answer = scraped("query", query=query)
    except urllib.error.HTTPError as error:
        raise AssertionError(error.read().decode()) from None
    assert answer["resultType"] == "vector"
    assert answer["result"], query
    values = [float(row["value"][1]) for row in answer["result"]]
    assert any(value == value for value in values), f"only NaN: {query}"


@needs_prometheus
@pytest.mark.long
def test_the_pools_of_the_dashboard_can_be_chosen(scraped):
    """The variable `$pool` lists the pools."""
    [variable] = [row for row in DASHBOARD["templating"]["list"] if row["name"] == "pool"]
    assert variable["query"]["query"] == "label_values(aiopool_size, pool)"
    assert scraped("label/pool/values", **{"match[]": "aiopool_size"}) == ["mail"]


@needs_prometheus
@pytest.mark.long
def test_every_rule_is_evaluated(scraped):
    """Prometheus evaluates each alert rule on what the pool exports, without an error; leaked jobs are seen at once."""
    groups = scraped("rules")["groups"]
    health = {rule["name"]: (rule["health"], rule.get("lastError", "")) for row in groups for rule in row["rules"]}
    assert health == dict.fromkeys(ALERTS, ("ok", ""))
    states = {rule["name"]: rule["state"] for row in groups for rule in row["rules"]}
    assert states["AiopoolJobsLeaked"] in ("pending", "firing")
    assert states["AiopoolWorkersCrash"] == "inactive"


@needs_prometheus
@pytest.mark.long
def test_what_prometheus_stored_is_what_the_pool_counted(scraped):
    """The target is up, labels are as we named them: `name` is not the scraper's `job`."""
    [target] = scraped("targets", state="active")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    rows = scraped("query", query="aiopool_job_outcomes_total")["result"]
    assert {row["metric"]["name"] for row in rows} >= {"fetch", "flaky", "stubborn", "sleep"}
    assert {row["metric"]["job"] for row in rows} == {"app"}
    assert not any("exported_job" in row["metric"] for row in rows)
    query = "sum(aiopool_job_run_seconds_bucket{le='+Inf'}) - sum(aiopool_job_run_seconds_count)"
    [row] = scraped("query", query=query)["result"]
    assert float(row["value"][1]) == 0


def test_the_dashboard_has_no_holes():
    """Every panel says what it shows, has an id and a place of its own, and asks the chosen data source."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels]
    assert len(set(places)) == len(places)
    for panel in panels:
        assert panel["title"]
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        if panel["type"] != "row":
            assert panel["description"]
            assert panel["targets"]
            for target in panel["targets"]:
                assert target["datasource"]["uid"] == "${datasource}"
