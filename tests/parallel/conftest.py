"""Ranks meet through torch: without it only what they share and hear is tested. They are processes
that take seconds to start, so those of most tests are started once, and load one network after
another."""

import importlib.util
from collections.abc import Iterator

import pytest

INSTALLED = importlib.util.find_spec("torch") is not None
NEED_TORCH = ["test_ahead.py", "test_failures.py", "test_group.py", "test_networks.py"]
collect_ignore = [] if INSTALLED else NEED_TORCH

if INSTALLED:
    from tests.parallel.ranks import Ranks

    @pytest.fixture(scope="package")
    def ranks() -> Iterator[Ranks]:
        """This process, and three more."""
        running = Ranks()
        yield running
        running.close()
