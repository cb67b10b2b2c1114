"""The chat on a real terminal: a child on a pseudo-terminal, keys typed by the test."""

import os
import pty
import select
import signal
import sys
import time
from pathlib import Path

CHILD = """
import sys, time
from pathlib import Path
from pagemill.cli.run import RunOrder, chat
from pagemill.cli.talk import Ending, Knobs

class Slow:
    name, load_s = "tiny", 0.0
    def answer(self, turns, knobs):
        yield f"You said {turns[-1].content!r}, message {len(turns)}. "
        while turns[-1].content == "count":
            yield "tick \\x1b]0;evil\\x07"
            time.sleep(0.02)
        yield Ending("stop", 1, 1, 0.1, 0.1)
    def close(self):
        print("closed")

sys.exit(chat(Slow(), RunOrder("tiny", "", Knobs()), lambda name: Slow(), Path(sys.argv[1])))
"""
PATIENCE_S = 20
SETTLE_S = 0.3  # readline misses a signal between its prompt and its wait for a key


class Terminal:
    def __init__(self, home: Path) -> None:
        self.seen = ""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            environment = {**os.environ, "TERM": "dumb", "COLUMNS": "40"}
            os.execve(sys.executable, [sys.executable, "-c", CHILD, str(home)], environment)

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def wait_for(self, text: str) -> str:
        """Read until `text`, return what came before it."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.seen:
            assert time.monotonic() < deadline, f"no {text!r} in {self.seen!r}"
            if select.select([self.fd], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self.fd, 65536).decode()
                except OSError:  # Linux: the child has closed the terminal
                    break
        before, found, self.seen = self.seen.partition(text)
        assert found, f"ended without {text!r}: {before!r}"
        return before

    def exit_code(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


def test_a_conversation_with_blocks_ctrl_c_and_history(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    terminal.wait_for(">>> ")
    terminal.type('"""one\n')
    terminal.wait_for("... ")
    terminal.type('two"""\n')
    terminal.wait_for("You said 'one\\ntwo', message 1.")
    terminal.wait_for(">>> ")
    terminal.type("count\n")
    terminal.wait_for("tick")
    terminal.type("\x03")
    assert "\x1b]0" not in terminal.wait_for("[stopped]")
    terminal.wait_for(">>> ")
    terminal.type("again\n")
    terminal.wait_for("You said 'again', message 5.")
    terminal.wait_for(">>> ")
    time.sleep(SETTLE_S)
    terminal.type("\x03")
    terminal.wait_for("Ctrl-C again")
    terminal.wait_for(">>> ")
    terminal.type("/nonsense\n")
    terminal.wait_for("There is no /nonsense.")
    terminal.wait_for(">>> ")
    terminal.type("\x04")
    terminal.wait_for("closed")
    assert terminal.exit_code() == 0
    history = tmp_path / "history"
    assert "again" in history.read_text()
    assert history.stat().st_mode & 0o077 == 0
