"""Servers and models for the tests that run the whole program."""

import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.serving import Serving

collect_ignore_glob = [] if sys.platform == "linux" else ["test_*.py"]  # they read /proc

LONG_CONTEXT = 32768
ROOMY = "64M"  # keys and values of a quarter of a million tokens of the tiny model


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
def shared(long_llama_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """One server for the tests of a file that leave it as it was."""
    folder = tmp_path_factory.mktemp("home")
    with Serving(folder, long_llama_path, "--kv-cache-memory", ROOMY) as running:
        yield running


@pytest.fixture
def server(shared: Serving) -> Iterator[Serving]:
    """The shared server, without clients of other tests."""
    yield shared
    shared.drop_clients()
