"""Make a process end at once when its parent dies, even by `kill -9` (Linux).

The kernel can be asked to send a process a signal at the moment its parent ends (`PR_SET_PDEATHSIG`). The
process itself has to ask. For a command that is somebody else's program, this file stands in front: run as a
script, it asks, and then becomes that program (`exec` keeps the wish). For a `multiprocessing` target, call
`die_with_parent()` first thing in it.

The caveat: *parent* means the thread that started the process, not the whole process. A child that was
started by a helper thread dies with that thread. Therefore our commands are started by one thread that lives
as long as the program (`_command`). And the wish is not inherited: grandchildren do not have it, and a
program that changes its user or gains privileges when it is executed loses it.

Nothing of ours is imported here: as a script it has to start in some ten milliseconds.
"""

import ctypes
import os
import signal
import sys

__all__ = ["die_with_parent"]

_PR_SET_PDEATHSIG = 1


def die_with_parent(signum: int = signal.SIGKILL, *, parent: int | None = None) -> None:
    """Ask the kernel to end this process as soon as the thread that started it is gone.

    If the parent is gone already, this process ends here.

    Args:
        signum: the signal to get; SIGKILL cannot be ignored.
        parent: the pid that the parent has. Left out, it is known to `multiprocessing`, or taken as it is
            now.

    Raises:
        OSError: the system has no such wish (it is Linux's), or refuses it.

    Example:
        >>> def target():
        ...     die_with_parent()
        ...     serve()
    """
    if not sys.platform.startswith("linux"):
        raise OSError(
            f"die_with_parent() needs Linux, this is {sys.platform}: give the registry a pid_dir, "
            "and the next start ends what was left"
        )
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(_PR_SET_PDEATHSIG, int(signum), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl(PR_SET_PDEATHSIG, {signum}): {os.strerror(code)}")
    # It may have died before we asked; then nobody will tell us.
    if _orphaned(parent):
        os.kill(os.getpid(), signum)


def _orphaned(parent: int | None) -> bool:
    if parent is not None:
        return os.getppid() != parent
    multiprocessing = sys.modules.get("multiprocessing.process")
    process = multiprocessing.parent_process() if multiprocessing is not None else None
    return process is not None and not process.is_alive()


def _main(arguments: list[str]) -> None:
    """`_die_with_parent.py PARENT PROGRAM ARGUMENT…`: ask, then become the program."""
    parent, *argv = arguments
    die_with_parent(parent=int(parent))
    try:
        os.execvp(argv[0], argv)  # noqa: S606 - as the user said; no shell is wanted
    except OSError as error:
        print(f"{argv[0]}: {error.strerror}", file=sys.stderr)
        # The shell's numbers: 127 for "not found", 126 for "found, but cannot be run".
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)


if __name__ == "__main__":
    _main(sys.argv[1:])
