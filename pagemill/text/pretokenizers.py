"""How text is cut before byte pairs are merged: one row for each value of tokenizer.ggml.pre.

Owns the expressions and nothing else. A row's expressions are applied in turn, each to the pieces
that the one before left; what matches is a piece, and so is what lies between matches. The names
are those of the GGUF format. No row looks behind, and none joins a letter with what follows a run
of letters: the tokenizer's cutting of long texts relies on both.
"""

from dataclasses import dataclass
from types import MappingProxyType

from pagemill.errors import Unsupported

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# "%s" is how many digits may stand together.
_CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """One way of cutting. `ignore_merges`: a piece that is a token stays whole, merges or not.
    `add_bos`: whether prompts begin with the bos token in files that do not say.
    """

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False


_DIGITS_APART = PreTokenizer((r"\p{N}", _GPT2))
_PLAIN_GPT2 = PreTokenizer((_GPT2,))
_LLAMA3 = PreTokenizer((_CL100K % "{1,3}",), ignore_merges=True, add_bos=True)
_QWEN2 = PreTokenizer((_CL100K % "",))
_DEFAULT = PreTokenizer((r"[\p{P}$+<=>^~|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"))

TABLE = MappingProxyType(
    {
        "default": _DEFAULT,
        "gpt-2": _PLAIN_GPT2,
        "llama-bpe": _LLAMA3,
        "llama3": _LLAMA3,
        "qwen2": _QWEN2,
        "smollm": _DIGITS_APART,
        "starcoder": _DIGITS_APART,
    }
)


def get(name: str) -> PreTokenizer:
    """The row of that name. Unsupported lists those that exist."""
    if name not in TABLE:
        shown = ascii(name[:64])
        raise Unsupported(f"pre-tokenizer {shown} is not supported; supported: {', '.join(TABLE)}")
    return TABLE[name]
