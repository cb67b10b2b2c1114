"""What is made while a command loads stays, until the process ends."""

import subprocess
import sys

LEAVES_A_CYCLE = """
from pagemill.cli import loading
class Native:
    def __del__(self): print("gone")
loading.begin()
one = Native()
one.self = one
del one
loading.end()
print("loaded")
"""


def test_what_is_left_over_goes_when_the_process_ends() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEAVES_A_CYCLE], check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == ["loaded", "gone"]
