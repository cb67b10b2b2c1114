"""Typed lines and the arrow keys: readline where there is one, plain input elsewhere."""

import contextlib
import os
from pathlib import Path

try:
    import readline
except ImportError:  # Windows, some minimal builds
    readline = None  # type: ignore[assignment]

MAX_LINES = 1000


class History:
    """Reads lines and remembers them in a file that only its owner can read."""

    def __init__(self, path: Path, *, on: bool) -> None:
        self.path = path
        self.on = on
        if readline is not None:
            readline.set_auto_history(on)
            if on:
                with contextlib.suppress(OSError):
                    readline.read_history_file(path)

    def read(self, prompt: str) -> str:
        """One line; EOFError and KeyboardInterrupt as from `input`."""
        return input(prompt)

    def switch(self, on: bool) -> None:
        """Remember lines from now on, or stop remembering them."""
        self.on = on
        if readline is not None:
            readline.set_auto_history(on)

    def save(self) -> None:
        """Write the file. A home that cannot be written is no reason to fail at leaving."""
        if readline is None or not self.on:
            return
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch(mode=0o600)
            os.chmod(self.path, 0o600)
            readline.set_history_length(MAX_LINES)
            readline.write_history_file(self.path)
