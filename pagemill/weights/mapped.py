"""Opens files that nobody vouches for and maps them into memory. Knows no format."""

import mmap
import os
import stat
from io import FileIO
from pathlib import Path

from pagemill.errors import BadModelFile


def open_regular(path: Path, name: str) -> FileIO:
    """A regular file, to read; links are followed. `name` is for messages."""
    # Looked at before it is opened: opening a pipe can wait for ever, a device can do worse.
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise BadModelFile(f"{name}: not a regular file")
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        file = FileIO(os.open(path, flags), "rb")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise BadModelFile(f"{name}: cannot be opened: {reason}") from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise BadModelFile(f"{name}: not a regular file")
    return file


def read_start(file: FileIO, size: int, name: str) -> bytes:
    """Up to `size` bytes from where the file stands; fewer when it ends before."""
    try:
        return file.read(size) or b""
    except OSError as error:
        raise BadModelFile(f"{name}: cannot be read: {error.strerror}") from None


def map_whole(file: FileIO, name: str) -> mmap.mmap:
    """All of a file that is not empty, read-only."""
    try:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or "too large to map"
        raise BadModelFile(f"{name}: cannot be read: {reason}") from None
