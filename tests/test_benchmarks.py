"""Benchmarks are not run here, but they start: what they use of the package is there."""

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
ELSEWHERE = ("llama_logits.py",)  # runs in the interpreter that has llama.cpp
SCRIPTS = sorted(path.name for path in FOLDER.glob("*.py") if path.name not in ELSEWHERE)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_benchmark_explains_itself(script: str) -> None:
    done = subprocess.run(
        [sys.executable, str(FOLDER / script), "--help"],
        cwd=FOLDER.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert script in done.stdout, done.stderr
