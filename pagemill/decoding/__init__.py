"""Decoding: what happens between logits and ids, as data for the `sample` op.

Owns the translation of one request's sampling parameters into the flat arrays of `SampleRows`. Must
not know: how logits are computed or ids drawn, and nothing of pages and schedules.
"""
