"""Servers and models for the tests that run the whole program."""

import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.serving import Serving

collect_ignore_glob = [] if sys.platform == "linux" else ["test_*.py"]  # they read /proc

LONG_CONTEXT = 32768


@pytest.fixture(scope="session")
def long_llama_path(tiny_llama_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a context in which an answer lasts for seconds."""
    data = bytearray(tiny_llama_path.read_bytes())
    key = b"llama.context_length"
    struct.pack_into("<I", data, data.index(key) + len(key) + 4, LONG_CONTEXT)
    path = tmp_path_factory.mktemp("models") / "long.gguf"
    path.write_bytes(data)
    return path


@pytest.fixture(scope="module")
def server(long_llama_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """One server for the tests of a file that leave it as it was."""
    with Serving(tmp_path_factory.mktemp("home"), long_llama_path) as running:
        yield running
