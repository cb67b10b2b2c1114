"""How text is cut before byte pairs are merged: one row for each value of tokenizer.ggml.pre.

Owns the expressions and nothing else. A row's expressions are applied in turn, each to the pieces
that the one before left; what matches is a piece, and so is what lies between matches. The names
are those of the GGUF format, the expressions those of the models' own tokenizers. No row looks
behind farther than a character, and none takes time that grows faster than the text. Where a row
surely begins a new piece is its border; the cutting of long texts relies on it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from types import MappingProxyType

from pagemill.errors import Unsupported

# A blank after a visible character; a line's end or punctuation, but no apostrophe, after a letter.
BORDER = r"(?<=\S)(?=[ \t])|(?<=[^\W\d_])(?=[\n!-&(-/:-@\[\]-^{-~、。，！？])"
_AFTER_WORD = r"(?<=[A-Za-z])(?=[ \t\n])"
_AFTER_VERSE = r"(?<=[A-Za-z])(?=[\n!-&(-/:-@])"
_BEFORE_WORD = r"(?<=[A-Za-z])(?= [A-Za-z])"

_APOSTROPHES = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_BLANKS = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_LINE_BY_LINE = r"|\s*[\r\n]|\s+(?!\S)|\s+"
_SIGNS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
_WORDS = r"|[^\r\n\p{L}\p{N}]?\p{L}+"
# Lower case after upper case begins no new piece, upper case after lower case does.
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}%s]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}%s]"
_CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+%s|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*%s"
_SIGNS_AND_SLASHES = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*"
_IDEOGRAPHS_AND_KANA = "[一-龥぀-ゟ゠-ヿ]+"
_DEEPSEEK_V3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*"
)
# A run of blanks at the end of a piece, found without trying every blank of every other run.
LAST_BLANKS = r"(?<!\s)\s++$"
_EAST_ASIAN = "[一-龥ࠀ-一가-퟿]+"
# The letters of Latin, Greek, Cyrillic, Armenian, Georgian, Cherokee, Coptic, Deseret, Adlam and a
# few more: as the tokenizer of the first DeepSeek models lists them.
_DEEPSEEK_LETTERS = (
    "A-Za-z\xb5\xc0-\xd6\xd8-\xf6\xf8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
    "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-"
    "\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-"
    "\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-"
    "\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-"
    "\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102"
    "\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    "\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2"
    "\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-"
    "\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df"
    "\U0001e900-\U0001e943"
)


def _cl100k(digits: str, words: str = _WORDS, signs: str = _SIGNS) -> str:
    """`digits` says how many may stand together."""
    return _APOSTROPHES + words + rf"|\p{{N}}{digits}" + signs + _BLANKS


def _o200k(digits: str, apostrophes: str) -> str:
    words = _CASED % ("", "", apostrophes, "", "", apostrophes)
    return words + rf"|\p{{N}}{digits}" + _SIGNS_AND_SLASHES + _BLANKS


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """One way of cutting. `ignore_merges`: a piece that is a token stays whole, merges or not.
    `add_bos`: whether prompts begin with the bos token in files that do not say. `border`: an
    expression of Python's that matches between two pieces.
    """

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False
    border: str = BORDER


_DIGITS_APART = PreTokenizer((r"\p{N}", _GPT2))
_PLAIN_GPT2 = PreTokenizer((_GPT2,))
_LLAMA3 = PreTokenizer((_cl100k("{1,3}"),), ignore_merges=True, add_bos=True)
_DBRX = PreTokenizer((_cl100k("{1,3}"),))
_GLM = PreTokenizer((_cl100k("{1,3}"),), ignore_merges=True)
_QWEN2 = PreTokenizer((_cl100k(""),))
_MARKS = (r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+", r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*")
_GPT4O = PreTokenizer((_o200k("{1,3}", _APOSTROPHES + "?"),))
_DEEPSEEK3 = PreTokenizer((r"\p{N}{1,3}", _IDEOGRAPHS_AND_KANA, _DEEPSEEK_V3 + _BLANKS))
_BLOOM = PreTokenizer((r" ?[^(\s|.,!?…。，、।۔،)]+",), border=_BEFORE_WORD)
_BAILING = PreTokenizer((_APOSTROPHES + _WORDS + r"|\p{N}" + _SIGNS + _LINE_BY_LINE,))
_DEFAULT = PreTokenizer((r"[\p{P}$+<=>^~|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"))
_NOT_HAN = r"&&[^\p{Han}]"
_KIMI_WORDS = _CASED % (
    *(_NOT_HAN, _NOT_HAN, _APOSTROPHES + "?"),
    *(_NOT_HAN, _NOT_HAN, _APOSTROPHES + "?"),
)
_JAIS2_BLANKS = r"|\s*[\r\n]+" + "".join(
    rf"|\s{{{size}}}(?!\S)" for size in ("512", "256", "128", "64", "32", "16", "8", "4", "1,2")
)
_YOUTU_SCRIPTS = "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|" + _IDEOGRAPHS_AND_KANA


def _rows() -> Iterable[tuple[str, PreTokenizer]]:
    """Names that share a row stand together."""
    same = (
        ("default", _DEFAULT),
        ("gpt-2 phi-2 jina-es jina-de jina-v2-es jina-v2-de gigachat a.x-4.0 mellum", _PLAIN_GPT2),
        ("jina-v1-en jina-v2-code roberta-bpe mpt olmo jais exaone4 modern-bert", _PLAIN_GPT2),
        ("trillion granite-docling", _PLAIN_GPT2),
        ("smollm starcoder refact command-r codeshell exaone minerva-7b mellum2", _DIGITS_APART),
        ("llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano", _LLAMA3),
        ("dbrx smaug-bpe chatglm-bpe", _DBRX),
        ("glm4 glm5", _GLM),
        ("qwen2 deepseek-r1-qwen kormo f2llmv2 stablelm2 hunyuan megrez", _QWEN2),
        ("solar-open grok-2", _QWEN2),
        ("gpt-4o llama4 kanana2 talkie minimax-m2", _GPT4O),
        ("deepseek-v3 hunyuan-dense joyai-llm hy_v4", _DEEPSEEK3),
        ("poro-chat bloom gpt3-finnish", _BLOOM),
        ("bailingmoe bailingmoe2 llada-moe", _BAILING),
    )
    for names, row in same:
        yield from ((name, row) for name in names.split())


TABLE = MappingProxyType(
    {
        **dict(_rows()),
        "qwen35": PreTokenizer((_cl100k("", *_MARKS),)),
        "tekken": PreTokenizer((_o200k("", ""),), ignore_merges=True, add_bos=True),
        "falcon": PreTokenizer((r"[\p{P}$+<=>^~|`]+", _GPT2, "[0-9][0-9][0-9]")),
        "deepseek-llm": PreTokenizer(
            (
                *(r"[\r\n]", rf"\s?[{_DEEPSEEK_LETTERS}]+", r"\s?[!-/:-~！-／：-～‘-‟　-。]+"),
                *(LAST_BLANKS, _EAST_ASIAN, r"\p{N}+"),
            ),
            border=_AFTER_WORD,
        ),
        "deepseek-coder": PreTokenizer(
            (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _EAST_ASIAN, r"\p{N}"), border=_AFTER_WORD
        ),
        "viking": PreTokenizer((*_BLOOM.patterns, r"\p{N}"), border=_BEFORE_WORD),
        "kimi-k2": PreTokenizer((r"\p{Han}+|" + _KIMI_WORDS + r"|\p{N}{1,3}" + _SIGNS + _BLANKS,)),
        "seed-coder": PreTokenizer((_cl100k("", signs=r"| ?[^\s\p{L}\p{N}\r\n]+"),)),
        "minicpm5": PreTokenizer((r"\p{N}{1,3}", _cl100k("+")), ignore_merges=True),
        "exaone-moe": PreTokenizer(
            (
                _APOSTROPHES
                + r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}"
                + r"| ?[^\s\p{L}\p{N}]+[\r\n/]?"
                + _LINE_BY_LINE,
            ),
            border=_AFTER_VERSE,
        ),
        "jais-2": PreTokenizer(
            (_APOSTROPHES + _WORDS + r"|\p{N}{1,3}" + _SIGNS + _JAIS2_BLANKS + r"|\s",)
        ),
        "youtu": PreTokenizer((_YOUTU_SCRIPTS, _o200k("", _APOSTROPHES + "?")), ignore_merges=True),
    }
)


# Expressions of models' own files -> those that rows here have in their place.
SAME = MappingProxyType({r"\s+$": LAST_BLANKS})


def get(name: str) -> PreTokenizer:
    """The row of that name. Unsupported lists those that exist."""
    if name not in TABLE:
        shown = ascii(name[:64])
        raise Unsupported(
            f"pre-tokenizer {shown} is not supported; supported: {', '.join(sorted(TABLE))}"
        )
    return TABLE[name]
