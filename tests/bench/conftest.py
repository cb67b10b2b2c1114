"""`gpu` holds tests that need torch: they are collected where it is installed."""

import importlib.util

collect_ignore = [] if importlib.util.find_spec("torch") else ["gpu"]
