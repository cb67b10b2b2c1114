"""Ranks meet through torch: without it nothing here is collected. They are processes that take
seconds to start, so those of most tests are started once, and load one network after another."""

import importlib.util
from collections.abc import Iterator

import pytest

INSTALLED = importlib.util.find_spec("torch") is not None
collect_ignore_glob = [] if INSTALLED else ["test_*.py"]

if INSTALLED:
    from tests.parallel.ranks import Ranks

    @pytest.fixture(scope="package")
    def ranks() -> Iterator[Ranks]:
        """This process, and three more."""
        running = Ranks()
        yield running
        running.close()
