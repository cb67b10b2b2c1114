"""Model files: readers that trust nothing, the meaning of stored formats, and checkpoints.

This room must not know how a backend computes or how a network is wired; it hands out a checked
`ModelCard` and rows of bytes.
"""
