"""`plain` holds tests that need torch, `triton` those that need Triton too: they are collected
where these are installed."""

import importlib.util


def _installed(*names: str) -> bool:
    return all(importlib.util.find_spec(name) is not None for name in names)


NEEDS = {"plain": ("torch",), "triton": ("torch", "triton")}
collect_ignore = [folder for folder, names in NEEDS.items() if not _installed(*names)]
