"""The contract on torch's own calls, on any device that torch has: the definition on tensors.

Backends with kernels of their own build on it and replace what a kernel does better. Owns where
tensors lie and in which type; must not know which model is running, or why a step has its rows.
"""
