"""Two texts for a model that judges them in words: its own template, with a place for each.

Owns where GGUF files keep such a template and what it may hold. Must not know what the model says.
"""

import re
from collections.abc import Mapping
from typing import Any

from pagemill.errors import BadModelFile
from pagemill.text.chat import MAX_SOURCE_CHARS
from pagemill.text.disguise import Disguise
from pagemill.text.tokenizer import Tokenizer

_KEY = "tokenizer.chat_template.rerank"
_PLACES = re.compile(r"\{(query|document)\}")


def pair_template(metadata: Mapping[str, Any]) -> str:
    """The template of a GGUF file; empty: it brings none. BadModelFile for one without places."""
    text = metadata.get(_KEY, "")
    if not isinstance(text, str) or len(text) > MAX_SOURCE_CHARS:
        raise BadModelFile(f"key '{_KEY}' is no text of at most {MAX_SOURCE_CHARS} characters")
    if text and set(_PLACES.findall(text)) != {"query", "document"}:
        raise BadModelFile(f"key '{_KEY}' has no place for {{query}} or for {{document}}")
    return text


def pair_prompt(tokenizer: Tokenizer, template: str, query: str, document: str) -> list[int]:
    """Ids of both in their places. The template makes special ids, what is typed does not."""
    disguise = Disguise(tokenizer, [template, query, document], "")
    hidden = tokenizer.special_ids
    typed = {"query": disguise.put_on(query, hidden), "document": disguise.put_on(document, hidden)}
    text = _PLACES.sub(lambda at: typed[at[1]], template)
    return tokenizer.encode(text, special=True, between=disguise.take_off)
