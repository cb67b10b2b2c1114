"""`real` holds tests that need torch and transformers: they are collected where the extra is."""

import importlib.util

from pagemill.fallback.choice import LIBRARIES

INSTALLED = all(importlib.util.find_spec(name) for name in LIBRARIES)
collect_ignore = [] if INSTALLED else ["real"]
