"""File-system moves that the store and imports are made of. Knows no model and no layout."""

import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK_POLL_S = 0.1


def regular(path: Path) -> os.stat_result | None:
    """The details of a regular file (links are followed); None for all else. Never blocks."""
    try:
        details = path.stat()
    except (OSError, ValueError):  # loops of links, names with NUL
        return None
    return details if stat.S_ISREG(details.st_mode) else None


def has(path: Path, size: int) -> bool:
    """Whether a regular file of this size is there."""
    details = regular(path)
    return details is not None and details.st_size == size


def link_over(target: Path, place: Path, temporary: Path) -> None:
    """Make `place` another name of the file `target`, in one step, whatever was there."""
    temporary.unlink(missing_ok=True)
    try:
        os.link(target, temporary)
    except OSError:  # a file system without hard links, or one that has used them up
        temporary.symlink_to(os.path.relpath(target, place.parent))
    os.replace(temporary, place)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Be the only one who holds this lock file; `waiting` is called ten times a second till then.

    A `flock` lock: the kernel gives the lock of a dead process to the next one at once.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if waiting is not None:
                    waiting()
                time.sleep(LOCK_POLL_S)
        yield
    finally:
        os.close(handle)
