"""Judge how much of the core the tests have run, over all processes and Pythons that were measured.

    python scripts/check_coverage.py DIRECTORY [--gate]

`DIRECTORY` has the data files, one a process; `pyproject.toml` says what is measured, and what is the core. What no
test has run is listed. With `--gate`, less than the floors below is a failure. They only go up, to 100 and 99.
"""

from __future__ import annotations

import fnmatch
import json
import sys
import tempfile
from pathlib import Path

import coverage

ROOT = Path(__file__).resolve().parents[1]
CORE = ("_runtime", "_jobs", "_engine", "_pool")
# Percent; 99.49 and 97.84 were measured when they were set. What runs in a process that is killed writes nothing.
LINES, BRANCHES = 99.0, 97.0


def judge(directory: Path, *, gate: bool) -> list[str]:
    """Print what is missing, and return what is wrong."""
    with tempfile.TemporaryDirectory() as scratch:
        measured = coverage.Coverage(data_file=f"{scratch}/data", config_file=str(ROOT / "pyproject.toml"))
        measured.combine([str(directory)], keep=True)
        measured.report(skip_covered=True, show_missing=True)
        measured.json_report(outfile=f"{scratch}/report.json")
        report = json.loads(Path(scratch, "report.json").read_text(encoding="utf-8"))
        omitted = [str(pattern) for pattern in measured.get_option("report:omit") or ()]  # with the reason beside it
    seen = {Path(file).resolve() for file in report["files"]}
    wrong = [
        f"{path.relative_to(ROOT)}: nothing of it was measured"
        for room in CORE
        for path in sorted((ROOT / "aiopool" / room).glob("*.py"))
        if path not in seen and not any(fnmatch.fnmatch(str(path.relative_to(ROOT)), pattern) for pattern in omitted)
    ]
    totals = report["totals"]
    lines, branches = totals["percent_statements_covered"], totals["percent_branches_covered"]
    print(
        f"core: {totals['covered_lines']} of {totals['num_statements']} lines ({lines:.2f} %), "
        f"{totals['covered_branches']} of {totals['num_branches']} branches ({branches:.2f} %)"
    )
    for what, share, floor in (("lines", lines, LINES), ("branches", branches, BRANCHES)):
        if gate and share < floor:
            wrong.append(
                f"{share:.2f} % of the {what} of the core are run by a test; at least {floor:g} % should: "
                "write the test, delete what nothing needs, or say in a pragma why not"
            )
    return wrong


if __name__ == "__main__":
    arguments = sys.argv[1:]
    gate = "--gate" in arguments
    faults = judge(Path(next(word for word in arguments if word != "--gate")), gate=gate)
    for fault in faults:
        print(fault, file=sys.stderr)
    sys.exit(1 if faults else 0)
