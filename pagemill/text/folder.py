"""The files of a model folder, as tokenizers and templates read them."""

from pagemill.small_files import MAX_JSON_BYTES, MAX_JSON_DEPTH, read_json, read_text

__all__ = ["MAX_JSON_BYTES", "MAX_JSON_DEPTH", "read_json", "read_text"]
