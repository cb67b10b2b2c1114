"""What every kind of tokenizer is made of, whatever file it came from; the limits of all files.

Owns which tokens are special: tokens that structure a conversation, and that no text of a user may
become. It must not know the formats of files.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from pagemill.errors import BadModelFile
from pagemill.text.encoder import Encoder
from pagemill.text.frames import Frame
from pagemill.text.spelling import Spelling

MAX_TOKENS = 1 << 20
MAX_MERGES = 1 << 21
MAX_TOKEN_CHARS = 4096
MAX_SPECIAL = 1 << 14

# Control tokens that end an answer in the model families whose files name only one of them.
_END_TEXTS = frozenset(
    (
        *("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|end|>"),
        *("<|return|>", "<|call|>", "<end_of_turn>", "<turn|>", "</s>", "<eos>", "<EOT>", "[EOT]"),
        *(
            "[EOS]",
            "<end_of_utterance>",
            "<|tool_response>",
            "<｜end▁of▁sentence｜>",
            "<|END_OF_TURN_TOKEN|>",
        ),
    )
)
# Files that hold the first token of a row use the second one inside of an answer.
_NO_END_BESIDE = (("<|call|>", "<|end|>"), ("<eos>", "</s>"))

_BRACKETS = re.compile(r"[<>\[\]{}|｜]")
# Elements of HTML that some vocabularies keep whole: they look like marks and are words.
_HTML = re.compile(
    "</?(?:table|caption|thead|tbody|tfoot|tr|th|td|h[1-6]|blockquote|strong|em|b|i|u|sub|sup|code)>"
)


@dataclass(frozen=True, slots=True)
class TokenKinds:
    """`control` tokens never show in answers. `marks` do, though no text becomes one: `<think>`.
    `words` are kept whole wherever they stand in a text: runs of blanks, `<h1>`.
    """

    control: frozenset[int] = frozenset()
    marks: frozenset[int] = frozenset()
    words: frozenset[int] = frozenset()

    @property
    def special(self) -> frozenset[int]:
        """What plain text must never become."""
        return self.control | self.marks

    @property
    def added(self) -> frozenset[int]:
        """All that is found in a text before the rest of it is encoded."""
        return self.control | self.marks | self.words


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Checked, and complete: `Tokenizer` needs nothing else. `tokens` are texts by id, with "" for
    ids that name none.
    """

    tokens: Sequence[str]
    encoder: Encoder
    spelling: Spelling
    kinds: TokenKinds
    eos_ids: frozenset[int]
    bos_id: int | None = None
    frame: Frame = field(default_factory=Frame)
    # A text begins with a blank that was not in it; so does what follows one of these tokens.
    leading_blank: bool = False
    begins_after: frozenset[int] = frozenset()
    # Special tokens that take the blanks on their left or right into themselves.
    takes_left: frozenset[int] = frozenset()
    takes_right: frozenset[int] = frozenset()
    max_length: int | None = None


def sort_kinds(
    control: Iterable[int], user_defined: Iterable[int], tokens: Sequence[str], ends: Iterable[int]
) -> TokenKinds:
    """Kinds of tokens. One that the file calls `user_defined` is a mark if it has a bracket in it;
    `ends` are control tokens whatever the file calls them.
    """
    hidden = frozenset(chain(control, ends))
    others = frozenset(user_defined) - hidden
    marks = frozenset(i for i in others if is_mark(tokens[i]))
    if len(hidden) + len(others) > MAX_SPECIAL:
        count = len(hidden) + len(others)
        raise BadModelFile(f"{count} tokens are special, the limit is {MAX_SPECIAL}")
    return TokenKinds(hidden, marks, others - marks)


def find_ends(ids: Mapping[str, int], special: frozenset[int]) -> frozenset[int]:
    """Special tokens that by their name end an answer."""
    names = {text for text in _END_TEXTS & ids.keys() if ids[text] in special}
    for present, other in _NO_END_BESIDE:
        if present in names:
            names.discard(other)
    return frozenset(ids[text] for text in names)


def check_tokens(tokens: Sequence[str]) -> str | None:
    """What is wrong with a list of tokens, if anything."""
    if not tokens:
        return "is empty"
    if not all(tokens):
        return f"item {tokens.index('')} is empty"
    longest = max(map(len, tokens))
    if longest > MAX_TOKEN_CHARS:
        return f"a token has {longest} characters, the limit is {MAX_TOKEN_CHARS}"
    return None


def first_duplicate(tokens: Sequence[str]) -> str:
    """Two equal tokens of a list that has some."""
    seen: dict[str, int] = {}
    for number, token in enumerate(tokens):
        first = seen.setdefault(token, number)
        if first != number:
            return f"items {first} and {number} are both {token[:64]!a}"
    raise AssertionError("no duplicate")


def is_mark(text: str) -> bool:
    """Whether a token looks like structure rather than like a word."""
    return bool(_BRACKETS.search(text)) and not _HTML.fullmatch(text)
