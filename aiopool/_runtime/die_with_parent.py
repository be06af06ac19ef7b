"""Make a process end at once when its parent dies, even by `kill -9` (Linux).

The kernel can be asked to send a process a signal at the moment its parent ends (`PR_SET_PDEATHSIG`). The
process itself has to ask. For a command that is somebody else's program, this file stands in front: run as a
script, it asks, and then becomes that program (`exec` keeps the wish). For a `multiprocessing` target, call
`die_with_parent()` first thing in it.

The caveat: *parent* means the thread that started the process, not the whole process. A child that was
started by a helper thread dies with that thread. Therefore our commands are started by one thread that lives
as long as the program (`_command`). And the wish is not inherited: grandchildren do not have it, and a
program that changes its user or gains privileges when it is executed loses it.

Under `forkserver`, the default of `multiprocessing` from Python 3.14 on, the kernel takes the server for the parent,
and the server lives for as long as one of its children does. There a thread of the child waits for the end of the
process that asked for it, and sends the signal. A thread needs the interpreter: a child that is stopped, or held up by
C code that does not let others run, ends when it goes on.

Nothing of ours is imported here: as a script it has to start in some ten milliseconds.
"""

import ctypes
import os
import signal
import sys

TYPE_CHECKING = False  # `typing` takes longer to import than all of this
if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

__all__ = ["die_with_parent"]

_PR_SET_PDEATHSIG = 1


def die_with_parent(signum: int = signal.SIGKILL, *, parent: int | None = None) -> None:
    """Have this process ended as soon as its parent is gone, by `kill -9` too.

    If the parent is gone already, this process ends here. In a child of `multiprocessing` the parent is the process
    that started it, by any start method. Under `fork` and `spawn` the kernel watches it, and takes *parent* to mean the
    thread that started this process. Under `forkserver` a thread of this process watches it.

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
    if not sys.platform.startswith("linux"):  # pragma: no cover: no tests run there
        raise OSError(
            f"die_with_parent() needs Linux, this is {sys.platform}: give the registry a pid_dir, "
            "and the next start ends what was left"
        )
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(_PR_SET_PDEATHSIG, int(signum), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl(PR_SET_PDEATHSIG, {signum}): {os.strerror(code)}")
    # It may have died before we asked; then nobody will tell us.
    multiprocessing = sys.modules.get("multiprocessing.process")
    process = multiprocessing.parent_process() if multiprocessing is not None else None
    if process is None or parent not in (None, process.pid):
        orphaned = parent is not None and os.getppid() != parent
    else:
        orphaned = not process.is_alive() or (os.getppid() != process.pid and not _watch(process, signum))
    if orphaned:
        os.kill(os.getpid(), signum)


def _watch(parent: "BaseProcess", signum: int) -> bool:
    """Get the signal when a process is gone that is no parent to the kernel; `False` if it is gone already."""
    import select
    import threading

    try:
        descriptor = os.pidfd_open(parent.pid or 0)
    except ProcessLookupError:
        return False
    except OSError:  # pragma: no cover: an old kernel, or a sandbox that forbids it
        descriptor = None

    def wait() -> None:
        if descriptor is None:
            parent.join()  # the end of a pipe, which whoever was forked from the parent may hold open
        else:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            poll.poll()
        os.kill(os.getpid(), signum)

    threading.Thread(target=wait, name="aiopool-die-with-parent", daemon=True).start()
    return True


def _main(arguments: list[str]) -> None:  # pragma: no cover: it becomes another program, and the measurement ends
    """`die_with_parent.py PARENT PROGRAM ARGUMENT…`: ask, then become the program."""
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
