"""`triton` holds tests that need torch and Triton: they are collected where both are."""

import importlib.util

INSTALLED = all(importlib.util.find_spec(name) for name in ("torch", "triton"))
collect_ignore = [] if INSTALLED else ["triton"]
