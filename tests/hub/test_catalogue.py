"""The shipped catalogue is sound, and an unsound one is refused with its place."""

import json
from pathlib import Path
from typing import Any

import pytest

from pagemill.errors import ConfigError
from pagemill.hub.catalogue import Catalogue, PackageSource
from pagemill.hub.names import Name


def test_smollm2_is_in_the_shipped_catalogue() -> None:
    catalogue = Catalogue.load()
    entry = catalogue.find(Name.parse("SmolLM2"))
    assert entry is not None
    assert entry is catalogue.find(Name.parse("smollm2:135m"))
    assert entry.license == "Apache-2.0"
    assert catalogue.canonical(Name.parse("smollm2")) == Name.parse("smollm2:135m")
    assert catalogue.canonical(Name.parse("a/b")) == Name.parse("a/b")
    assert catalogue.find(Name.parse("smollm3")) is None
    assert any(isinstance(source, PackageSource) for source in entry.sources)


def model(**changes: Any) -> dict[str, Any]:
    return {
        "name": "tiny:1b",
        "aliases": ["tiny"],
        "description": "a model",
        "license": "MIT",
        "file": "tiny.gguf",
        "sha256": "0" * 64,
        "size": 3,
        "sources": [
            {"kind": "huggingface", "repo": "org/repo", "revision": "main", "file": "tiny.gguf"}
        ],
    } | changes


def write(folder: Path, *models: dict[str, Any], schema: int = 1) -> Path:
    path = folder / "catalogue.json"
    path.write_text(json.dumps({"schema": schema, "models": models}))
    return path


def test_a_good_catalogue(tmp_path: Path) -> None:
    catalogue = Catalogue.load(write(tmp_path, model()))
    assert catalogue.names() == "tiny:1b"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "../x"}, "is invalid"),
        ({"name": "/x.gguf"}, "command line"),
        ({"sha256": "ABC"}, "digest"),
        ({"size": 0}, "size 0"),
        ({"size": True}, "size True"),
        ({"file": "../x.gguf"}, "plain file name"),
        ({"aliases": ["tiny:1b"]}, "given twice"),
        ({"aliases": None}, "catalogue"),
        ({"sources": [{"kind": "ftp"}]}, "'ftp'"),
        ({"sources": [{"kind": "package_index"}]}, "'wheels' is missing"),
        ({"sources": [{"kind": "huggingface", "repo": "x", "revision": "m"}]}, "org/repo"),
    ],
)
def test_an_unsound_catalogue_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Catalogue.load(write(tmp_path, model(**changes)))


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="schema is 2"):
        Catalogue.load(write(tmp_path, schema=2))
