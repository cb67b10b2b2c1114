"""Text as SentencePiece prepares it: characters replaced, blanks tidied and marked.

Owns the rules for blanks. It must not know models of vocabularies.
"""

import re

from pagemill.text.charsmap import CharsMap
from pagemill.text.spelling import BLANK

_BLANKS = re.compile(" {2,}")
_NO_CHARACTER = "\uffff"  # vocabularies use it for names that no text may hold


class Sentences:
    """One model's rules. `prefix`: a text begins with a blank that was not in it; or, with
    `suffix`, ends with it. `merge_blanks`: blanks at the ends go, and several become one.
    """

    def __init__(
        self,
        charsmap: CharsMap | None = None,
        *,
        prefix: bool = False,
        merge_blanks: bool = False,
        suffix: bool = False,
    ) -> None:
        self._charsmap = charsmap
        self.prefix = prefix
        self._merge_blanks = merge_blanks
        self._suffix = suffix

    def normalize(self, text: str, begins: bool) -> str:
        """The text as the vocabulary writes it; "" stays empty."""
        text = text.replace(_NO_CHARACTER, "\ufffd")
        if self._charsmap:
            text = self._charsmap.replace(text)
        if self._merge_blanks:
            text = _BLANKS.sub(" ", text).strip(" ")
        if text and self.prefix and begins:
            text = f"{text} " if self._suffix else f" {text}"
        return text.replace(" ", BLANK)
