"""Every truncation and some thousand mutations of a small good file: it loads or it is refused.

Run in a process with little memory: what a lying length makes the reader allocate kills that
process and fails the test, instead of hiding in the memory of a large machine.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.weights.llama_file import llama_file

ROOT = Path(__file__).parents[2]
MUTATIONS = int(os.environ.get("PAGEMILL_FUZZ_COUNT", "2000"))  # for each seed


def run(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.weights.fuzz_target", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report: dict[str, Any] = json.loads(done.stdout)
    # Four times the file and 32 MiB; the file is 5 KiB.
    assert report["grown"] <= 32 << 20
    assert report["slowest"] <= 1.0
    return report


def test_every_truncation_is_refused():
    report = run("truncate")
    assert (report["loaded"], report["refused"]) == (0, len(llama_file().to_bytes()))


@pytest.mark.parametrize(
    ("kind", "seed"), [("mutate", 1), ("mutate", 2), ("split", 3), ("split", 4)]
)
def test_mutations_load_or_are_refused(kind, seed):
    report = run(kind, str(seed), str(MUTATIONS))
    assert report["loaded"] + report["refused"] == MUTATIONS
    # Both ends are reached, or the test proves little.
    assert min(report["loaded"], report["refused"]) > MUTATIONS // 20


@pytest.mark.parametrize(("kind", "seed"), [("header", 5), ("header", 6), ("index", 7)])
def test_scribbles_in_a_folder_load_or_are_refused(kind, seed):
    report = run(kind, str(seed), str(MUTATIONS))
    assert report["loaded"] + report["refused"] == MUTATIONS
    assert min(report["loaded"], report["refused"]) > MUTATIONS // 200


def test_every_setting_of_a_folder_may_be_anything():
    report = run("config")
    assert min(report["loaded"], report["refused"]) > 1000
