"""The engine: token ids in, token ids or vectors out. Integers and numpy only.

Owns: who advances in a step (`scheduler`), where keys and values lie (`pages`), what a request has
become (`sequence`), the flat arrays of one forward pass (`step`), the loop (`engine`, and `pooling`
for networks that give vectors) and the limits (`plan`). Two doors lead to it: `local` in this
process, and `client` to a process of its own, which `spawn` starts, `process` runs inside and
`wire` connects; both keep those who wait in `streams`. Must not know: text, HTTP, how a model
computes, how a backend computes. It is handed a model and an ops object and calls them.
"""
