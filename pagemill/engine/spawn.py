"""Starting and ending an engine process: a child, a socket pair, nothing else.

Synchronous and cheap to import, so that a program can start its engine before it loads its own
libraries. Must not know: what the child runs (it is handed a module's name), frames, asyncio.
"""

import os
import signal
import socket
import subprocess
import sys

BUFFER_SIZE = 1 << 20  # bytes that may wait in the socket, each way

# The child gets our module path, so that it runs the same code wherever that was found.
_BOOT = (
    "import sys; sys.path[:] = sys.argv[3:]; from importlib import import_module; "
    "import_module(sys.argv[1]).main(int(sys.argv[2]))"
)
_STDERR = 2


class EngineProcess:
    """A child process and our end of the socket to it."""

    def __init__(self, entry: str, num_blas_threads: int = 1) -> None:
        """Start `entry`, a module with `main(file_descriptor)`, and return at once.

        Call it on a thread that lives as long as the process should: on Linux, the kernel ends the
        child together with the thread that started it.
        """
        self.door, theirs = socket.socketpair()
        for end in (self.door, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_SIZE)
        threads = str(num_blas_threads)
        with theirs:
            self._child = subprocess.Popen(  # noqa: S603
                [sys.executable, "-c", _BOOT, entry, str(theirs.fileno()), *sys.path],
                stdin=subprocess.DEVNULL,
                stdout=_STDERR,  # our standard output may be someone's data
                pass_fds=(theirs.fileno(),),
                env=os.environ
                | {
                    "OMP_NUM_THREADS": threads,
                    "OPENBLAS_NUM_THREADS": threads,
                    "MKL_NUM_THREADS": threads,
                    "VECLIB_MAXIMUM_THREADS": threads,
                },
                start_new_session=True,  # Ctrl-C in a terminal is for us alone
            )

    @property
    def pid(self) -> int:
        return self._child.pid

    def kill(self) -> None:
        """End it now, even if it is stopped. Idempotent."""
        self._child.kill()

    def ended(self) -> bool:
        """Whether it is gone (and reaped)."""
        return self._child.poll() is not None

    def discard(self) -> None:
        """Close the door, end the process and wait for that: for one that was never used."""
        self.door.close()
        self._child.kill()
        self._child.wait()

    def how_it_ended(self) -> str:
        """In words: "signal 9 (Killed)" or "exit status 1"."""
        status = self._child.poll()
        if status is None:
            return "still running"
        if status >= 0:
            return f"exit status {status}"
        return f"signal {-status} ({signal.strsignal(-status) or 'unknown'})"


def cpu_seconds(pid: int) -> float | None:
    """CPU time that a process has used; None where the system does not tell."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b") ")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
