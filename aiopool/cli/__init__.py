"""The command `aiopool`; needs the extra `cli` (typer and rich).

    _app      the commands and their options, in typer's words
    _complete what a shell completes
    _settings `aiopool settings`: the effective settings, and where each comes from
    _plan     `aiopool plan`: a fleet, simulated; _plan_app has its options
    _map      `aiopool map`: from the options to an exit code
    _work     the work itself: lines in, through `pool.map`, results out
    _options  what was asked for, checked; _amounts reads rates, limits and arguments
    _target   `MODULE:FUNCTION`: import it, or say in one line why not
    _call     what it does when it is called: it ends its own call only
    _process  the same in another process
    _setup    what is opened once for all calls
    _output   the file for results: nothing in it is lost that was not given up; _past knows what it has
    _results  the thread that writes them
    _record   a finished line as text; _json knows what JSON has
    _source   lines of files and of standard input, read as they are needed; _fields finds their priority and key
    _board    the live progress bar, or plain lines where there is no terminal
    _jobs     `aiopool jobs`: look at the jobs of a store, steer them; _jobs_app has the options, _copy moves them
    _doctor   `aiopool doctor`: what a store is; _promises has what that means for a job
    _worker   `aiopool worker`: run the jobs of a store
    _web      `aiopool web`, `aiopool serve`: pools over HTTP; _web_app has the options
    _store    a store, opened for a command
    _job_text a stored job as text; _table has plain tables
    _streams  standard input and output, which jobs do not get
    _door     the door of a running program; _door_app has the options of the three commands that go through it
    _http_door the same over HTTP; _http_routes has which request asks what
    _ps       `aiopool ps`: which programs have one
    _ctl      `aiopool ctl`: ask by a verb; _answer_text has the answers as text
    _top      `aiopool top`: frame after frame; _look asks for one, _frame makes it text, _fit fits tables to a width
    _top_app  the same on a screen of Textual's; _top_head, _top_rows, _top_dialogs, _top_choose are parts of it
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
