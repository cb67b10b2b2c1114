"""Token ids to text as they come: no character is cut, no stop string slips out.

Owns the state of one answer. It must not know where ids come from or where text goes. Every token
is decoded once, whatever came before: the cost of a push does not grow with the answer.
"""

import codecs
from collections.abc import Sequence

from pagemill.text.stops import StopStrings
from pagemill.text.tokenizer import Tokenizer

_Utf8Decoder = codecs.getincrementaldecoder("utf-8")


class Detokenizer:
    """One per choice. `stopped` is the stop string that was met; text after it is dropped, and so
    is the string itself unless `include_stop`. All text joined equals `Tokenizer.decode` of all
    ids, except that `continues` keeps the blank with which some vocabularies begin every text: the
    ids go on with a text that somebody else has begun.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        stop: Sequence[str] = (),
        skip_special: bool = True,
        include_stop: bool = False,
        continues: bool = False,
    ) -> None:
        self._token_bytes = tokenizer.token_bytes
        self._hidden = tokenizer.control_ids if skip_special else frozenset()
        self._stops = StopStrings(stop) if stop else None
        self._include_stop = include_stop
        self._decoder = _Utf8Decoder("replace")
        self._drop_blank = tokenizer.leading_blank and not continues
        self._finished = False
        self.stopped: str | None = None

    def push(self, ids: Sequence[int]) -> str:
        """Text that is now safe to send; often none."""
        hidden = self._hidden
        data = b"".join([self._token_bytes(i) for i in ids if i not in hidden])
        if self._drop_blank and data:
            data = data.removeprefix(b" ")
            self._drop_blank = False
        return self._pass(self._decoder.decode(data))

    def finish(self) -> str:
        """The held-back rest, U+FFFD for a character that never became whole. Later calls: none."""
        if self._finished:
            return ""
        self._finished = True
        text = self._pass(self._decoder.decode(b"", True))
        return text + self._stops.finish() if self._stops else text

    def _pass(self, text: str) -> str:
        stops = self._stops
        if stops is None or not text or self.stopped is not None:
            return "" if self.stopped is not None else text
        safe = stops.push(text)
        if stops.met is None:
            return safe
        self.stopped = stops.met
        return safe + stops.met if self._include_stop else safe
