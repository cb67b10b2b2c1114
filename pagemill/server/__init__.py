"""The HTTP side: dialects in front of one engine door.

Owns routes, bodies and streams, keys, limits, metrics, draining. `ports` says what it needs of the
rooms behind it; `orders`, `prompts`, `generation` and `sse` are what all dialects share. Must not
know: engines, models, weights, kernels, and one dialect nothing of another.
"""
