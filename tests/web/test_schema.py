"""The whole API against its own schema, by schemathesis: each answer is declared, and links lead somewhere."""

import subprocess
import sys

import pytest
from web_app import TOKEN, serve
from web_servers import need

pytestmark = pytest.mark.ecosystem

# Which params go with a function cannot be said in this schema; an operation that was stopped can be looked at; and the
# `ids` of jobs, which a request for an operation has, are taken for the id of that operation.
NOT_MEANT = "positive_data_acceptance,use_after_free,ensure_resource_availability"
CONFIG = """
[parameters]
pool = "pool"
"""


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.soak)])
def test_nothing_is_answered_that_is_not_declared(tmp_path, seed):
    """Examples, boundaries, fuzzing and chains of requests, with all checks; streams have tests of their own."""
    need("schemathesis")
    with serve(tmp_path) as server:
        (tmp_path / "schemathesis.toml").write_text(CONFIG)
        words = ["run", f"{server.url}api/v1/openapi.json", "--header", f"Authorization: Bearer {TOKEN}"]
        words += [
            "--exclude-path-regex",
            "events$",
            "--seed",
            str(seed),
            "--max-examples",
            "20",
            "--continue-on-failure",
        ]
        words += ["--exclude-checks", NOT_MEANT]
        done = subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", *words], capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode == 0, done.stdout
        assert "Failures" not in done.stdout
