"""One thread: what is compared is small."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.fallback.real.networks import make

torch.set_num_threads(1)
Made = Callable[[str], Path]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The folder of a network, made once."""
    home, folders = tmp_path_factory.mktemp("networks"), {}

    def find(kind: str) -> Path:
        if kind not in folders:
            folders[kind] = make(home / kind, kind)
        return folders[kind]

    return find
