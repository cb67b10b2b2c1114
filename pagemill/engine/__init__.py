"""The engine: token ids in, token ids out. Integers and numpy only.

Owns: who advances in a step (`scheduler`), where keys and values lie (`pages`), what a request has
become (`sequence`), the flat arrays of one forward pass (`step`), the loop (`engine`), the limits
(`plan`) and the doors to all of it (`client`). Must not know: text, HTTP, how a model computes, how
a backend computes. It is handed a model and an ops object and calls them.
"""
