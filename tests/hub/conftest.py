"""A misbehaving server and an empty store, for every test of the hub."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagemill.hub.store import Store
from tests.hub.fake import Fake, serving


@pytest.fixture
def fake() -> Iterator[Fake]:
    with serving(Fake()) as fake:
        yield fake


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


@pytest.fixture
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for the disk: for tests of many small files, in which no power is cut."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
