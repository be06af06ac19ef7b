"""The benchmarks run: their numbers are judged by people, their machinery is tested here.

No test looks at a measured time. What is tested is that every contender does the work it says, that the
arithmetic of ratios and verdicts is right, and that the files can be read.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

import pytest
import structlog

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))  # `benchmarks` stands beside the package and is not installed with it

from aiopool import Pool  # noqa: E402
from benchmarks import (  # noqa: E402
    chart,
    contenders,
    durable,
    durable_peers,
    growth,
    looking,
    measure,
    page,
    plan,
    report,
    requests,
    scenarios,
    servers,
    targets,
    watching,
)
from benchmarks.__main__ import choose, parse  # noqa: E402
from benchmarks.contenders import CREATE_TASK, EXECUTOR, GATHER, OURS, SCOPE, TASK  # noqa: E402
from benchmarks.measure import Cell, CellResult, Spread  # noqa: E402


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m benchmarks` as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=170,
    )


@pytest.mark.parametrize("only", ["record", "next_jobs", ""])
def test_looking_is_measured(only: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m benchmarks.looking` asks each question, or those that are chosen, and prints a number for each."""
    monkeypatch.setattr(looking, "RECORDS", 2_000)
    looking.main(["--count", "200", "--only", only])
    printed = capsys.readouterr().out
    asked = [name for name in looking.QUESTIONS if name in printed]
    assert asked == [name for name in looking.QUESTIONS if only in name]
    assert ("bytes" in printed) == (only != "next_jobs")


def test_the_dashboard_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """`python -m benchmarks.dashboard` has one table: times, costs and sizes, each with its budget."""
    pytest.importorskip("fastapi")
    from benchmarks import dashboard

    assert (
        dashboard.main(["--jobs", "300", "--rounds", "2", "--seconds", "0.1", "--only", "groups", "--no-browser"]) == 0
    )
    printed = capsys.readouterr().out
    assert [line.split("|")[1].strip() for line in printed.splitlines() if line.startswith("| ")][2:] == [
        *("groups: p50", "groups: p95", "groups: CPU of the loop", "groups: sent", "50 viewers: CPU"),
    ]
    assert "300 queued jobs" in printed


def result_of(**samples: list[float]) -> CellResult:
    """Return a measured cell with these samples for TASK, SCOPE and others."""
    names = {"task": TASK, "scope": SCOPE, "gather": GATHER, "create_task": CREATE_TASK}
    result = CellResult(Cell("burst", "no-op", 100, 1_000))
    for key, values in samples.items():
        name = names.get(key, key.replace("_", "-"))
        result.samples[name] = values
        result.jobs[name] = 1_000
    return result


LONG = pytest.mark.long
OPTIONS = {"json": "--json", "svg": "--svg", "md": "--markdown"}
A_FEW = ("--only", "burst/no-op", "--only", "critical", "--contender", TASK, "--contender", GATHER)


@pytest.mark.timeout(180)  # 40 processes, on a busy machine
@pytest.mark.parametrize("selection", [pytest.param(A_FEW, id="a few"), pytest.param((), marks=LONG, id="all")])
def test_the_quick_mode_measures_every_contender_and_writes_its_files(tmp_path: Path, selection: Sequence[str]) -> None:
    """One tiny round over all contenders: nobody fails, whoever is missing says why."""
    cells, probes = choose(parse(["--quick", *selection]))
    files = {kind: tmp_path / "made" / f"run.{kind}" for kind in OPTIONS}
    paths = [word for kind, option in OPTIONS.items() for word in (option, str(files[kind]))]
    done = command("--quick", *selection, *paths)
    assert done.returncode == 0, done.stdout + done.stderr
    data = json.loads(files["json"].read_text())
    assert data["rounds"] == 1
    assert len(data["cells"]) == len(cells) > 0
    for cell, planned in zip(data["cells"], cells, strict=True):
        measured = {entry["name"] for entry in cell["contenders"]}
        assert cell["failed"] == {}
        assert measured | set(cell["skipped"]) == {entry.name for entry in planned.contenders()}
        if planned.missing():  # for want of a library or a server: each of its contenders says so
            assert not measured
            continue
        assert cell["baseline"] in measured
        for entry in cell["contenders"]:
            assert entry["jobs"] > 0
            assert all(sample > 0 for sample in entry["cpu_us"])
            assert entry["ratio"]["low"] <= entry["ratio"]["median"] <= entry["ratio"]["high"]
        ours = {entry.name for entry in planned.contenders() if entry.name in OURS}
        assert ours <= measured
    assert len(data["scenarios"]) == len(probes) > 0
    for probed in data["scenarios"]:
        assert probed["failed"] is None
        assert probed["samples"] or probed["skipped"]
    ElementTree.fromstring(files["svg"].read_text())
    assert files["md"].read_text().strip() == done.stdout.strip()
    # The page of the documentation is made of the same file.
    (run,) = page.load([files["json"]])
    text = "\n".join(section([run]) for section in page.SECTIONS.values())
    for entry in next(planned for planned in cells if not planned.missing()).contenders():
        assert entry.name in text or entry.missing()
    if not selection:
        # One table in its section, or none.
        alone = {"light", "options", "growth", "cancel", "workers"}
        assert all(title in text for probe, title in scenarios.TITLES.items() if probe not in alone)


@pytest.mark.long
@pytest.mark.parametrize("gaps", [False, True])
def test_every_verb_can_be_asked_whether_it_grows(gaps: bool) -> None:
    """Each of them comes to its end, with few jobs, and says what it took."""

    async def main() -> None:
        for verb in growth.VERBS:
            numbers = await growth.measure(verb, "task", 60, gaps=gaps, repeats=1)
            assert list(numbers) == ["gap_ms" if gaps else "us"], verb
            assert all(value >= 0 for value in numbers.values()), verb

    asyncio.run(main())


def test_what_grows_is_marked() -> None:
    """A cost that is more than half above that of few jobs, and a gap of more than 5 ms, are marked."""
    probed = []
    for verb, costs, gap in (("flat", [1.0, 1.4], 4.9), ("steep", [1.0, 1.6], 5.1)):
        for count, numbers in zip(
            (growth.SMALL, growth.LARGE, growth.HUGE),
            ({"us": [costs[0]]}, {"us": [costs[1]]}, {"gap_ms": [gap]}),
            strict=True,
        ):
            scenario = scenarios.Scenario("growth", TASK, {"verb": verb, "count": count})
            probed.append(scenarios.ScenarioResult(scenario, numbers))
    (table,) = report.scenario_tables(probed)
    rows = {line.split("|")[1].strip(): line for line in table.splitlines() if line.startswith("|")}
    assert "**" not in rows["flat"]
    assert "**grows**, **gap**" in rows["steep"]


def test_a_wrong_name_leaves_nothing_to_measure_and_says_so() -> None:
    """An empty selection is an error, not an empty table."""
    done = command("--only", "no such cell")
    assert done.returncode == 2
    assert "--list" in done.stderr


def test_zero_rounds_are_refused() -> None:
    """Zero rounds have no median."""
    done = command("--rounds", "0")
    assert done.returncode == 2
    assert "--rounds 1" in done.stderr


def test_a_ratio_is_taken_round_by_round() -> None:
    """A slow round slows both sides, so it must not show in the ratio."""
    result = result_of(task=[1.0, 10.0, 2.0], gather=[2.0, 20.0, 4.0])
    assert result.ratio(TASK, GATHER) == Spread(0.5, 0.5, 0.5)
    assert result.cost(TASK) == Spread(2.0, 1.0, 10.0)


def test_the_best_published_pool_is_found_among_the_published_only() -> None:
    """Hand-written recipes are cheaper and do not count."""
    result = result_of(gather=[1.0], aiojobs=[9.0], asyncio_pool=[3.0])
    assert result.best_published() == "asyncio-pool"


def test_the_best_of_all_peers_is_neither_ours_nor_a_floor() -> None:
    """Recipes count as well as published pools; workers by hand, which have nothing of a pool, do not."""
    result = result_of(task=[1.0], gather=[5.0], aiojobs=[9.0])
    result.samples |= {contenders.HAND: [2.0], contenders.TASK_GROUP: [3.0]}
    assert result.best_peer() == contenders.TASK_GROUP
    assert {entry.name for entry in contenders.of_suite("requests") if entry.floor} == {requests.NO_HANDLES}


def test_a_ratio_of_two_probes_is_taken_round_by_round() -> None:
    """One job at a time is compared with a bare task of the same round."""
    probed = [
        scenarios.ScenarioResult(scenarios.Scenario("light", name), {"trip_p50_us": samples})
        for name, samples in ((TASK, [3.0, 8.0, 6.0]), (CREATE_TASK, [2.0, 4.0, 4.0]))
    ]
    (verdict,) = [v for v in targets.judge([], probed) if "one job at a time" in v.title and v.ours == TASK]
    assert verdict.measured == Spread(1.5, 1.5, 2.0)
    assert verdict.word == "ok"


def test_the_worst_verb_is_judged_and_named() -> None:
    """One promise for all verbs; a copy of all jobs is in it with its growth, not with its gap."""
    assert growth.UNSLICED in growth.VERBS
    probed = []
    for verb, costs, gap in (("flat", [1.0, 1.4], 4.0), ("steep", [1.0, 1.6], 3.0), (growth.UNSLICED, [1, 1], 60.0)):
        for count, numbers in (
            (growth.SMALL, {"us": [costs[0]]}),
            (growth.LARGE, {"us": [costs[1]]}),
            (growth.HUGE, {"gap_ms": [gap]}),
        ):
            scenario = scenarios.Scenario("growth", SCOPE, {"verb": verb, "count": count})
            probed.append(scenarios.ScenarioResult(scenario, numbers))
    found = [v for v in targets.judge([], probed) if v.ours == SCOPE and "of any verb" in v.title]
    assert [(v.found, v.measured, v.word) for v in found] == [
        ("steep", Spread(1.6, 1.6, 1.6), "missed"),
        ("flat", Spread(4.0, 4.0, 4.0), "ok"),
    ]


def test_a_verdict_compares_the_median_with_the_limit_of_this_python() -> None:
    """Equal keeps the promise, more breaks it, and what was not measured is not called kept."""
    limit = 1.1 if sys.version_info < (3, 12) else 0.60
    for factor, word in ((1.0, "ok"), (1.01, "missed")):
        result = result_of(task=[limit * factor], create_task=[1.0])
        title = f"no-op vs {CREATE_TASK}"
        verdicts = [v for v in targets.judge([result], []) if (v.title, v.ours) == (title, TASK)]
        assert [verdict.word for verdict in verdicts] == [word, "not measured"]  # burst, steady


def test_each_promise_has_a_row_of_its_own() -> None:
    """The page has a row for each title and contender: two promises in one row would hide one of them."""
    rows = [(v.title, v.ours, "steady" if v.suite == "steady" else "") for v in targets.judge([], [])]
    assert len(set(rows)) == len(rows)


def test_every_promise_is_measured_by_the_targets_plan() -> None:
    """A promise whose cell or probe is not in the plan would never be checked."""
    cells = {(cell.suite, cell.workload): cell for cell in plan.target_cells()}
    for target in targets.RATIOS:
        for suite in target.suites:
            names = {entry.name for entry in cells[suite, target.workload].contenders()}
            assert target.ours in names
            assert target.base in {targets.BEST, targets.PEERS, *names}
    probes = {(scenario.probe, scenario.contender) for scenario in scenarios.target_scenarios()}
    assert {(target.probe, target.ours) for target in targets.NUMBERS} <= probes
    assert {(target.probe, target.base) for target in targets.NUMBERS if target.base} <= probes
    assert {scenario.parameters["verb"] for scenario in scenarios.target_scenarios() if scenario.probe == "growth"} == (
        growth.VERBS.keys()
    )


def test_the_promised_cells_come_first_in_the_whole_matrix() -> None:
    """The verdicts read the first cell of a kind, which must be the one at full size and 100 at a time."""
    first: dict[tuple[str, str], Cell] = {}
    for cell in plan.all_cells():
        first.setdefault((cell.suite, cell.workload), cell)
    for cell in plan.target_cells():
        found = first[cell.suite, cell.workload]
        assert (found.concurrency, found.count) == (cell.concurrency, cell.count)


def test_a_missing_package_skips_its_contender_with_a_reason() -> None:
    """Skipped is said, not silently left out."""

    async def run(function: object, count: int, concurrency: int) -> list[int]:
        return []

    entry = contenders.Contender("burst", "ghost", run, needs="no_such_module_at_all")
    assert "no_such_module_at_all" in (entry.missing() or "")
    assert contenders.find("threads", EXECUTOR).missing() is None


@pytest.mark.parametrize("name", [name for name, client in requests.CLIENTS.items() if client.server == "http"])
def test_all_connections_are_open_before_the_clock_starts(name: str) -> None:
    client = requests.CLIENTS[name]
    if reason := client.missing():
        pytest.skip(reason)
    opened = 0

    class Counting(servers.Http):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            nonlocal opened
            opened += 1
            super().connection_made(transport)

    async def main() -> tuple[int, int]:
        server = await asyncio.get_running_loop().create_server(Counting, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        async with server, client.open(f"{host}:{port}", 10) as function:
            before = opened
            await asyncio.gather(*map(function, range(10)))
            return before, opened

    assert asyncio.run(main()) == (10, 10)


def test_a_child_that_fails_is_reported_with_its_last_words() -> None:
    """The error of the child process is not lost."""
    with pytest.raises(measure.MeasurementError, match="KeyError"):
        measure.run_child({"probe": "no such probe", "contender": TASK, "parameters": {}})


def test_the_chart_cuts_long_bars_and_escapes_names() -> None:
    """A ratio of 50 must not make all others invisible, and `<` must not break the file."""
    result = result_of(gather=[1.0], task=[0.5])
    result.samples["a < b & c"] = [50.0]
    result.jobs["a < b & c"] = 1_000
    root = ElementTree.fromstring(chart.draw([result], "3.13"))
    bars = root.findall("{http://www.w3.org/2000/svg}rect")
    widths = [float(bar.attrib["width"]) for bar in bars]
    assert widths == sorted(widths)
    assert max(widths) == chart.BAR
    assert "a < b & c" in [text.text for text in root.findall("{http://www.w3.org/2000/svg}text")]


def test_numbers_keep_three_digits() -> None:
    """Enough to compare, without a pretence of precision."""
    assert [report.number(value) for value in (0.456, 12.34, 354.2, -0.5)] == ["0.46", "12.3", "354", "-0.50"]


def marked(name: str, text: str) -> str:
    """Return a place for a table in a page, with something in it."""
    return f"<!-- measured: {name}; written by `python -m benchmarks.page` -->\n\n{text}\n\n<!-- measured: end -->\n"


def test_a_page_keeps_what_stands_around_its_numbers() -> None:
    """Only what is between the markers is replaced, as often as one likes."""
    before = "# Title\n\n" + marked("options", "old") + "\nThe rest.\n" + marked("growth", "kept")
    once = page.fill(before, {"options": "new", "growth": ""})
    assert once == before.replace("old", "new")
    assert page.fill(once, {"options": "new"}) == once


def test_the_pages_have_a_place_for_each_table() -> None:
    """Each section stands once in the pages of the docs, and each place has a section."""
    text = "".join(file.read_text(encoding="utf-8") for file in page.PAGES)
    names = re.findall(r"<!-- measured: ([\w ]+); written by", text)
    assert sorted(names) == sorted(page.SECTIONS)
    filled = page.fill(text, dict.fromkeys(page.SECTIONS, "made"))
    assert filled.count("\nmade\n") == len(names)


def test_a_page_keeps_the_numbers_that_its_files_do_not_speak_of(tmp_path: Path) -> None:
    """The comparison and the observers can be measured apart: writing one leaves the other alone."""
    path, svg = tmp_path / "page.md", tmp_path / "chart.svg"
    path.write_text(marked("tiny jobs", "old") + marked("observers", "before"))
    scenario = scenarios.Scenario("watching", TASK, {"count": 9})
    probed = scenarios.ScenarioResult(scenario, {"metrics_ns": [5.0, 7.0, 6.0]})
    for name, cells, probes in (("compared", [result_of(task=[1.0], gather=[1.0])], []), ("watched", [], [probed])):
        data = report.as_json(cells, probes, [], rounds=1, uvloop=False)
        (tmp_path / f"{name}.json").write_text(json.dumps(data))
    assert page.main([str(tmp_path / "watched.json"), "--page", str(path), "--svg", str(svg)]) == 0
    assert not svg.exists()
    text = path.read_text()
    assert "old\n" in text
    assert "before" not in text
    assert "6.00 (5.00–7.00)" in text
    assert page.main([str(tmp_path / "compared.json"), "--page", str(path), "--svg", str(svg)]) == 0
    ElementTree.fromstring(svg.read_text())
    text = path.read_text()
    assert "old\n" not in text
    assert "6.00 (5.00–7.00)" in text


def test_a_version_that_lacks_a_suite_is_left_out_of_its_table(tmp_path: Path) -> None:
    """A library may be there for one version of Python only: its table is written, and so are the targets."""
    path, svg = tmp_path / "page.md", tmp_path / "chart.svg"
    path.write_text(marked("requests", "old") + marked("targets", "old") + marked("growth", "old"))
    for python, suites in (("3.11.9", ("burst", "steady")), ("3.13.1", ("burst", "steady", "requests"))):
        results = []
        for suite in suites:
            result = result_of(task=[1.0], gather=[1.0])
            result.cell = Cell(suite, "GET (redis)" if suite == "requests" else "no-op", 100, 1_000)
            results.append(result)
        data = report.as_json(results, [], [], rounds=1, uvloop=False) | {"python": python}
        (tmp_path / f"{python}.json").write_text(json.dumps(data))
    files = [str(tmp_path / f"{python}.json") for python in ("3.13.1", "3.11.9")]
    assert page.main([*files, "--page", str(path), "--svg", str(svg)]) == 0
    requests_table, targets_table, growth_table = path.read_text().split("<!-- measured: end -->")[:3]
    assert "CPython 3.13.1; " in requests_table
    assert "3.11" not in requests_table
    assert "### CPython 3.11.9" in targets_table
    assert "### CPython 3.13.1" in targets_table
    assert "old" in growth_table


@pytest.mark.long
def test_a_way_of_watching_is_gone_after_its_turn() -> None:
    """The next one is compared with a bare pool."""

    async def main() -> None:
        async with Pool(size=4, queue_size=None) as pool, Pool(size=4, queue_size=None) as own:
            for way in (*watching.ways_to_watch(), *watching.ways_to_log(), *watching.ways_to_trace()):
                # Metrics and health stay on: they have a pool of their own.
                assert await watching.one_turn(way, pool if way.options is None else own, 10) >= 0
                assert pool._state.engine.observers is None, way.name
                assert not structlog.is_configured(), way.name

    asyncio.run(main())


def test_each_version_is_judged_by_its_own_limit() -> None:
    """Each has a table of its own, and a missed promise is marked."""
    runs = [page.Run("3.11.9", 1), page.Run("3.13.1", 1)]
    for run in runs:
        run.cells.append(result_of(task=[1.0], create_task=[1.0]))
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in page.promises(runs).splitlines()
        if f"no-op vs {CREATE_TASK}" in line and TASK in line
    ]
    assert [row[2:] for row in rows] == [
        ["1.10", "1.00", "not measured"],
        ["0.60", "**1.00, missed**", "not measured"],
    ]


def test_a_peer_that_cannot_be_installed_or_never_restarts_a_job_is_told_so() -> None:
    """What is missing in the table of the peers is said, not left out."""
    broken = durable_peers.Row(durable_peers.PEERS[3], failed={"all": "it cannot be installed"})
    assert durable_peers.cells(broken, 40)[2:] == ["failed"] * 7
    stuck = durable_peers.Row(durable_peers.PEERS[3], "1.0", {"done": 30, "flying": 30, "rescued": 0})
    assert durable_peers.cells(stuck, 40)[1:5] == ["1.0", "30/60", "0/30", "not within 40 s"]


@pytest.mark.parametrize("peer", durable_peers.PEERS)
def test_each_peer_has_its_program_and_its_engine(peer: durable_peers.Peer) -> None:
    """A row of the table can be measured."""
    compile((durable_peers.PROGRAMS / peer.program).read_text(), peer.program, "exec")
    assert peer.engine in durable.KINDS


@pytest.mark.long
@pytest.mark.parametrize(
    ("module", "arguments", "words"),
    [
        ("limits", ["--jobs", "200", "--rounds", "1", "--seconds", "0.2"], ["by hand", "burst  10", "fair_keys=True"]),
        ("periodic", ["--rounds", "1", "--seconds", "0.2"], ["by hand", "pool.every"]),
        ("sizing", ["--seconds", "1"], ["at once", "capacity 10", "server"]),
        (
            "durable",
            "--server memory --server sqlite --seconds 0.1 --rounds 1 --kills 1 --lease 0.05".split(),
            ["limit of the engine", "500 at once", "from process to process", "until all 10 jobs do", "0 of 1"],
        ),
        (
            "durable_peers",
            ["--peer", "aiopool (SQLite)", "--jobs", "100", "--idle", "10"],
            ["60/60", "30/30", "idle p50/p99"],
        ),
        ("http_submit", ["--count", "50", "--rounds", "1"], ["aiopool web", "BackgroundTasks", "CPU µs each"]),
        ("top_cost", ["--rounds", "1", "--seconds", "0.5"], ["alone", "running", "what-if"]),
        ("no_store", ["--jobs", "1000", "--rounds", "1"], ["instructions", "calls into C", "ns of CPU"]),
    ],
)
def test_the_benchmarks_that_stand_alone_print_their_tables(
    module: str, arguments: list[str], words: list[str]
) -> None:
    """Each is a command of its own: it runs, and prints each of its rows."""
    run = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert run.returncode == 0, run.stderr
    assert all(word in run.stdout for word in words), run.stdout
