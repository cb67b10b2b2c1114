"""docs/adding.md promises that a kind of tokenizer is one file and a line: its example."""

import re
from pathlib import Path
from typing import Any

from pagemill.text.gguf_keys import Keys
from pagemill.text.tokenizer import Tokenizer

PAGE = Path(__file__).parents[2] / "docs" / "adding.md"


def test_the_example() -> None:
    (example,) = re.findall(
        r"```python\n(.*?)```", PAGE.read_text("utf-8").split("## A tok")[1], re.S
    )[:1]
    module: dict[str, Any] = {}
    exec(example, module)
    keys = {
        "tokens": ["<unk>", "</s>", "hello", "world", "!"],
        "token_type": [2, 3, 1, 1, 1],
        "eos_token_id": 1,
        "add_eos_token": True,
    }
    metadata = {f"tokenizer.ggml.{key}": value for key, value in keys.items()}
    tokenizer = Tokenizer(module["read"](Keys(metadata)))
    assert tokenizer.encode_prompt("hello  world! you") == [2, 3, 4, 0, 1]
    assert tokenizer.decode([2, 3, 4, 1]) == "hello world !"
    assert tokenizer.encode("</s>", special=True) == [1]
    assert 1 not in tokenizer.encode("</s>")
