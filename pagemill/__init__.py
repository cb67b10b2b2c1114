"""Pagemill serves language models: one program from a laptop to many machines."""

__version__ = "0.1.0"
