"""tekken.json: special tokens first, then tokens by their rank."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from pagemill.errors import BadModelFile, Unsupported
from pagemill.text import pretokenizers
from pagemill.text.tokenizer import Tokenizer

PATTERN = pretokenizers.get("tekken").patterns[0]
WORDS = [b"th", b"the", b" the", b"ng", b"ing", "é".encode(), b"in"]
TOKENS = [*(bytes([byte]) for byte in range(256)), *WORDS]


def file_of(**changes: Any) -> dict[str, Any]:
    tokens = [
        {"rank": rank, "token_bytes": base64.b64encode(data).decode(), "token_str": None}
        for rank, data in enumerate(TOKENS)
    ]
    config = {
        "pattern": PATTERN,
        "num_vocab_tokens": len(TOKENS),
        "default_vocab_size": 30 + len(TOKENS) - 1,
        "default_num_special_tokens": 30,
        "version": "v3",
    }
    return {"config": {**config, **changes.pop("config", {})}, "vocab": tokens, **changes}


def load(folder: Path, file: Any) -> Tokenizer:
    (folder / "tekken.json").write_text(json.dumps(file))
    return Tokenizer.from_folder(folder)


def test_tokens(tmp_path: Path) -> None:
    tekken = load(tmp_path, file_of())
    assert tekken.vocab_size == 292  # the last of the list has no room
    assert (tekken.bos_id, tekken.eos_ids) == (1, {2})
    ids = tekken.encode("the thing é in")
    assert [tekken.token_bytes(i) for i in ids] == [
        *(b"the", b" ", b"th", b"ing", b" ", "é".encode(), b" ", b"i", b"n")
    ]
    assert ids[0] == 30 + 257
    assert tekken.decode(ids) == "the thing é in"
    assert tekken.encode_prompt("[INST]<s>", special=True) == [1, 3, 1]
    assert tekken.encode("<SPECIAL_29>", special=True) == [29]
    assert not tekken.special_ids & set(tekken.encode("[INST]</s>"))


def test_listed_special_tokens(tmp_path: Path) -> None:
    listed = [{"rank": 5, "token_str": "[X]", "is_control": True}]
    tekken = load(tmp_path, file_of(special_tokens=listed))
    assert tekken.encode("[X]", special=True) == [5]
    assert tekken.bos_id is None


def changed(number: int, **changes: Any) -> list[dict[str, Any]]:
    vocab: list[dict[str, Any]] = file_of()["vocab"]
    vocab[number].update(changes)
    return vocab


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"vocab": []}, "default_vocab_size: is 292, 0 tokens are listed"),
        ({"vocab": [{"rank": 0}]}, "missing required field `token_bytes`"),
        ({"vocab": changed(3, rank=9)}, "item 3 has rank 9"),
        ({"vocab": changed(3, token_bytes="?")}, "base64"),
        ({"vocab": changed(3, token_bytes="")}, "item 3 is empty"),
        ({"vocab": changed(3, token_bytes="AA==")}, "items 0 and 3 are both"),
        ({"vocab": changed(3, token_bytes="AAA=")}, "not every byte is a token"),
        ({"config": {"default_vocab_size": 1 << 40}}, "is 1099511627776, 263 tokens are listed"),
        ({"config": {"default_num_special_tokens": 1 << 40}}, "the limit is 16384"),
        ({"config": {"default_num_special_tokens": -1}}, "is -1"),
        ({"special_tokens": [{"rank": 30, "token_str": "x"}]}, "'x' has rank 30, the limit is 30"),
        ({"special_tokens": [{"rank": 3, "token_str": ""}]}, "item 3 is empty"),
        (
            {"special_tokens": [{"rank": n, "token_str": "x"} for n in (3, 4)]},
            "items 3 and 4 are both 'x'",
        ),
    ],
)
def test_broken_files(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(BadModelFile, match=f"tekken.json.*{says}"):
        load(tmp_path, file_of(**changes))


def test_another_pattern(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"config.pattern: 'a\+b'"):
        load(tmp_path, file_of(config={"pattern": "a+b"}))
