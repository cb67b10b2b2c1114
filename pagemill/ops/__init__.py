"""Backends: what a network's operations mean and how they are computed.

`interface` is the contract, `reference` its definition in numpy; every other module is one backend.
Must not know: which model is running, and nothing of requests, pages as owned things, or text.
"""
