"""Ids of SmolLM2 as llama.cpp makes them: literal, so that no other engine is needed to test."""

from pathlib import Path

import pytest

from pagemill.text.tokenizer import Tokenizer
from pagemill.weights.gguf import GGUFFile

# What llama.cpp's tokenizer gave for the same file, special tokens not parsed.
EXPECTED: list[tuple[str, list[int]]] = [
    (" ", [216]),
    ("\n", [198]),
    (" \n ", [3717, 216]),
    ("\t\tif x:\n", [197, 197, 342, 1792, 42, 198]),
    (" a", [253]),
    ("Hello, world!", [19556, 28, 905, 17]),
    ("DON'T it's 'S", [52, 2154, 23, 68, 357, 506, 637, 67]),
    (
        "1234567 89 0.5e-10",
        [33, 34, 35, 36, 37, 38, 39, 216, 40, 41, 216, 32, 30, 37, 85, 29, 33, 32],
    ),
    ("   leading", [256, 2899]),
    ("a  b   c    d", [81, 216, 278, 256, 265, 333, 287]),
    ("a \n b", [81, 3717, 278]),
    ("line\r\nline2\r\n", [1311, 201, 198, 1311, 34, 2738]),
    (
        '<html><body class="x">&nbsp;</body></html>',
        [
            44,
            5699,
            21198,
            5226,
            1128,
            2671,
            104,
            15889,
            22,
            94,
            32093,
            43,
            9617,
            5226,
            29299,
            5699,
            46,
        ],
    ),
    (
        "https://example.com/a?b=c&d=%20",
        [4687, 1742, 7434, 30, 824, 31, 81, 47, 82, 45, 83, 22, 84, 23446, 34, 32],
    ),
    (
        "\u3053\u3093\u306b\u3061\u306f\u4e16\u754c\u3002",
        [7365, 237, 10391, 237, 41152, 7365, 111, 7365, 124, 7906, 240, 178, 239, 230, 19076],
    ),
    (
        "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd",
        [38229, 31838, 23970, 162, 247, 12960, 112, 23970, 31838, 162, 247],
    ),
    (
        "\u0393\u03b5\u03b9\u03ac \u03c3\u03bf\u03c5 \u039a\u03cc\u03c3\u03bc\u03b5",
        [153, 237, 14240, 12001, 26112, 32437, 39963, 5664, 244, 36180, 18751, 16674, 14240],
    ),
    ("e\u0301 n\u0303 a\u030a\u0301", [85, 151, 219, 304, 151, 221, 253, 151, 228, 151, 219]),
    ("\U0001f600", [10813, 242, 218]),
    (
        "\U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7",
        [10813, 225, 119, 10813, 225, 120, 10813, 225, 121, 10813, 225, 132],
    ),
    ("\u2764\ufe0f", [173, 247, 114, 31752]),
    ("\u202eabc\u202c", [321, 123, 25276, 321, 122]),
    ("a\u2003b\u3000c", [81, 321, 221, 82, 12109, 218, 83]),
    ("x\u2028y\u2029z", [104, 321, 118, 105, 321, 119, 106]),
    ("\x01\x02\x7f", [191, 192, 217]),
    ("\ufffd", [24211]),
    (
        "\u017f \xdf \u1e9e \u0130 \u0131",
        [144, 140, 5549, 249, 15822, 135, 248, 24488, 125, 216, 20335],
    ),
    ("\U0010ffff", [189, 233, 140, 140]),
    ("<|im_end|>", [44, 108, 306, 79, 486, 108, 46]),
    ("<repo_name>x<file_sep>", [44, 22139, 79, 1245, 46, 104, 44, 2153, 79, 29070, 46]),
    ("\u0120\u0120", [143, 250, 143, 250]),
    ("camelCaseWord", [12744, 299, 10802, 21268]),
    ("...", [2026]),
    ("---===---", [5583, 28733, 5583]),
    ("$100 \u20ac50 \xa33", [20, 33, 32, 32, 24927, 37, 32, 10257, 35]),
    ("a+b=c", [81, 27, 82, 45, 83]),
    ("`code`", [80, 4635, 80]),
    ("'''\"\"\"", [11193, 3327]),
    ("'s", [506]),
    ("'ll", [3060]),
]


@pytest.fixture(scope="module")
def smollm2(smollm2_path: Path) -> Tokenizer:
    with GGUFFile.open(smollm2_path) as file:
        return Tokenizer.from_gguf(file.metadata)


@pytest.mark.parametrize(("text", "ids"), EXPECTED, ids=ascii)
def test_ids_are_those_of_llama_cpp(smollm2: Tokenizer, text: str, ids: list[int]) -> None:
    assert smollm2.encode(text) == ids
    assert smollm2.decode(ids) == text


def test_special_tokens_on_request(smollm2: Tokenizer) -> None:
    text = "<|im_start|>user\nhi<|im_end|>"
    assert smollm2.encode(text, special=True) == [1, 4093, 198, 6004, 2]
    assert not smollm2.special_ids & set(smollm2.encode(text))
    assert smollm2.decode([1, 4093, 2]) == "user"
    assert smollm2.eos_ids == {0, 2}
    assert not smollm2.add_bos
