"""The boundary loop of the command line: what a failure looks like and which code it exits with.

0 done, 1 it failed, 2 it was asked wrongly (setting, name, file, port), 130 Ctrl-C, 141 nobody
reads our output any more. A traceback is for those who set PAGEMILL_DEBUG=1.
"""

import functools
import os
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from pagemill.errors import (
    BadModelFile,
    ConfigError,
    InvalidRequest,
    PagemillError,
    UnknownModel,
    Unsupported,
)

P = ParamSpec("P")
R = TypeVar("R")

ASKED_WRONGLY = (BadModelFile, ConfigError, InvalidRequest, UnknownModel, Unsupported)
FAILED, USAGE, INTERRUPTED, BROKEN_PIPE = 1, 2, 130, 141


def print_error(message: str, label: str = "error:") -> None:
    """One line on stderr; red where somebody can see it."""
    if sys.stderr.isatty() and "NO_COLOR" not in os.environ:
        label = f"\x1b[1;31m{label}\x1b[0m"
    print(f"{label} {message}", file=sys.stderr, flush=True)


def print_note(message: str) -> None:
    """One line on stderr that is no failure; grey where somebody can see it."""
    if sys.stderr.isatty() and "NO_COLOR" not in os.environ:
        message = f"\x1b[2m{message}\x1b[0m"
    print(message, file=sys.stderr, flush=True)


def exit_code(error: PagemillError) -> int:
    """2 when the caller can repair it by asking differently, else 1."""
    return USAGE if isinstance(error, ASKED_WRONGLY) else FAILED


def boundary(command: Callable[P, R]) -> Callable[P, R]:
    """Turn every expected failure of a command into one clear line and an exit code."""

    @functools.wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            result = command(*args, **kwargs)
            sys.stdout.flush()
        except PagemillError as error:
            if os.environ.get("PAGEMILL_DEBUG") == "1":
                raise
            print_error(error.message)
            raise SystemExit(exit_code(error)) from None
        except KeyboardInterrupt:
            raise SystemExit(INTERRUPTED) from None
        except BrokenPipeError:
            # Python flushes stdout once more at exit and would complain: give it a place to write.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(BROKEN_PIPE) from None
        return result

    return guarded
