"""The command `aiopool`; needs the extra `cli` (typer and rich).

    _app      the commands and their options, in typer's words
    _map      `aiopool map`: from the options to an exit code
    _work     the work itself: lines in, through `pool.map`, results out
    _target   `MODULE:FUNCTION`: import it, or say in one line why not; what it does ends its own call only
    _source   lines of files and of standard input, read as they are needed
    _results  results as lines of JSON, into a file or to standard output, which jobs do not get
    _board    the live progress bar, or plain lines where there is no terminal
    _settings `aiopool settings`: the effective settings, and where each comes from
    _words    the errors and exit codes that all of them use

Nothing heavy is imported before `main()` runs: an interrupt, or a missing extra, is answered with a line, not with a
traceback.
"""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command with the arguments of the process, and exit."""
    try:
        try:
            from aiopool.cli._app import app
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] not in ("typer", "rich", "click"):
                raise
            print(
                f"aiopool: the command line needs {error.name}, which is not installed; in the checkout of aiopool, "
                'write: pip install -e ".[cli]"',
                file=sys.stderr,
            )
            raise SystemExit(2) from None
        app(prog_name="aiopool")
    except KeyboardInterrupt:
        raise SystemExit(130) from None
