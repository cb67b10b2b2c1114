"""JSON files of model folders: what is read, and one clear error for each way to be wrong."""

import os
from pathlib import Path

import pytest

from pagemill.errors import BadModelFile
from pagemill.small_files import MAX_JSON_DEPTH, read_json


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "config.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def nested(depth: int) -> str:
    """An object of lists within lists, `depth` levels in all."""
    return '{"a": ' + "[" * (depth - 1) + "]" * (depth - 1) + "}"


def test_an_object(tmp_path: Path) -> None:
    assert read_json(written(tmp_path, '{"a": [1, "é"]}')) == {"a": [1, "é"]}


def test_numbers_that_python_writes(tmp_path: Path) -> None:
    assert read_json(written(tmp_path, '{"a": [0.0, Infinity]}')) == {"a": [0.0, float("inf")]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "must hold a JSON object, not list"),
        ("", "not valid JSON: .*line 1 column 1"),
        ('{\n"a": }', "not valid JSON: .*line 2 column 6"),
        ('{"a": ' + "9" * 5000 + "}", "not valid JSON"),
        (b'{"a": "\xff"}', "is not UTF-8 at its byte 7"),
        (nested(MAX_JSON_DEPTH + 1), "nested deeper than 64 levels"),
        (nested(200_000), "nested deeper than 64 levels"),
        ('{"a": "' + "x" * 1000 + '"}', "longer than 1000 bytes"),
    ],
)
def test_wrong_files(tmp_path: Path, content: str | bytes, message: str) -> None:
    limit = 1000 if "1000" in message else 1 << 20
    with pytest.raises(BadModelFile, match=rf"^'config.json'.*{message}"):
        read_json(written(tmp_path, content), limit)


def test_the_deepest_that_is_read(tmp_path: Path) -> None:
    assert read_json(written(tmp_path, nested(MAX_JSON_DEPTH)))


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(BadModelFile, match="No such file"):
        read_json(tmp_path / "absent.json")
    with pytest.raises(BadModelFile, match=r"directory|regular"):
        read_json(tmp_path)
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(BadModelFile, match="not a regular file"):
        read_json(tmp_path / "pipe.json")
