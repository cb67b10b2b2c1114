"""The command line: the room a person meets first.

Owns words, columns, colours and exit codes; must not know how an answer is computed. It may import
anything, but only inside the command that needs it: `pagemill --version` and `pagemill --help` must
answer at once, so this module imports nothing, not even the option parser.
"""

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the `pagemill` command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments == ["--version"]:
        from pagemill import __version__

        sys.stdout.write(f"pagemill {__version__}\n")
        return 0
    from pagemill.cli.app import run_app

    return run_app(arguments)
