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


def test_the_shipped_entries_add_up() -> None:
    entries = Catalogue.load().entries
    assert {str(entry.name): entry.is_folder for entry in entries} == {
        "smollm2:135m": False,
        "qwen2.5-coder:0.5b": False,
        "qwen2.5-coder:1.5b": False,
        "gemma3:270m-base": False,
        "all-minilm:l6-v2": True,
        "nomic-embed-text:v1.5": False,
    }
    for entry in entries:
        assert entry.license and entry.description
        assert isinstance(entry.sources[0], PackageSource)
        for source in entry.sources:
            if isinstance(source, PackageSource):
                unpacked = sum(wheel.unpacked for wheel in source.wheels)
                if source.inflate is not None:
                    assert source.inflate.offset + source.inflate.size <= unpacked
                elif source.folder:
                    assert unpacked == 0 and len(source.wheels) == 1
                else:
                    assert unpacked == entry.size
    minilm = Catalogue.load().find(Name.parse("all-minilm"))
    assert minilm is not None
    assert {"config.json", "model.safetensors", "1_Pooling/config.json"} <= {
        file.path for file in minilm.files
    }


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
        ({"files": []}, "no files"),
        ({"files": [{"path": "../x", "sha256": "0" * 64, "size": 1}]}, "leads out"),
        ({"files": [{"path": "x", "sha256": "0" * 64, "size": 1}]}, "must name a file"),
        ({"sources": [{"kind": "huggingface", "repo": "a/b", "revision": "m"}]}, "must name a"),
        ({"sources": [{"kind": "package_index", "wheels": [], "inflate": {}}]}, "catalogue"),
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
