"""Hugging Face folders: what is opened, what never is, and one clear error for each fault."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from pagemill import models
from pagemill.errors import BadModelFile, Unsupported
from pagemill.weights.load import open_model
from tests.weights.llama_file import HIDDEN, VOCABULARY
from tests.weights.safetensors_writer import (
    CONFIG,
    file_of,
    llama_tensors,
    write_folder,
    write_shards,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "some")


def set_index(folder: Path, **where: object) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"] |= where
    path.write_text(json.dumps(index))


def test_a_folder_becomes_a_card(folder: Path) -> None:
    checkpoint = open_model(folder, models)
    card = checkpoint.card
    assert (card.name, card.architecture, card.quantization) == ("some", "llama", "F32")
    assert (card.heads, card.kv_heads, card.head_dim, card.rope_dim) == (2, 1, 4, 4)
    assert (card.layers, card.hidden_size, card.ffn_size, card.vocab_size) == (1, 8, 16, 6)
    assert (card.context_length, card.tied_embeddings, card.rope_theta) == (32, True, 10000.0)
    assert card.weights_bytes == 4 * card.parameters
    assert checkpoint.folder == folder


def test_weights_are_views_of_the_file(folder: Path) -> None:
    weight = open_model(folder, models).source.matrix(("token_embd", VOCABULARY), k=HIDDEN)
    assert weight.formats == ("F32",)
    expected = llama_tensors()["model.embed_tokens.weight"]
    np.testing.assert_array_equal(weight.parts[0].view("<f4"), expected)
    assert not weight.parts[0].flags.owndata and not weight.parts[0].flags.writeable


def test_shards_are_one_model(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "some", llama_tensors(), 3)
    source = open_model(folder, models).source
    assert all(source.has(name) for name in ("token_embd", "output_norm", "blk.0.ffn_down"))


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "some", llama_tensors())
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(BadModelFile, match=r"'model-00002-of-00002\.safetensors'.* is missing"):
        open_model(folder, models)


@pytest.mark.parametrize(
    "where",
    [
        "../../etc/x.safetensors",
        "/etc/x.safetensors",
        "sub/x.safetensors",
        "sub\\x.safetensors",
        "x.bin",
        "model.safetensors.index.json",
        "..",
        "",
        ".safetensors",
        "c:x.safetensors",
        "x\0.safetensors",
        7,
        None,
        ["x.safetensors"],
    ],
)
def test_an_index_names_files_of_the_folder_only(tmp_path: Path, where: object) -> None:
    folder = write_shards(tmp_path / "some", llama_tensors())
    set_index(folder, **{"model.norm.weight": where})
    with pytest.raises(BadModelFile, match=r"'model\.norm\.weight' is in .*not the name of"):
        open_model(folder, models)


def test_an_index_and_its_files_agree(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "some", llama_tensors())
    set_index(folder, more="model-00001-of-00002.safetensors")
    with pytest.raises(BadModelFile, match="tensor 'more', which is in no file"):
        open_model(folder, models)


def test_a_tensor_in_two_files(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "some", llama_tensors())
    first = (folder / "model-00001-of-00002.safetensors").read_bytes()
    (folder / "model-00002-of-00002.safetensors").write_bytes(first)
    with pytest.raises(BadModelFile, match=r"is in 'model-00002.* and in another file"):
        open_model(folder, models)


@pytest.mark.parametrize("weight_map", [None, {}, [], "x", 3])
def test_an_index_without_a_map(tmp_path: Path, weight_map: object) -> None:
    folder = write_shards(tmp_path / "some", llama_tensors())
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(BadModelFile, match="'weight_map' is not an object"):
        open_model(folder, models)


def test_one_file_of_another_name(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    open_model(folder, models)
    (folder / "more.safetensors").write_bytes(file_of({}))
    with pytest.raises(BadModelFile, match=r"2 \*\.safetensors files and neither"):
        open_model(folder, models)


def test_pickles_are_never_opened(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "pytorch_model.bin")  # opening it would hang
    with pytest.raises(Unsupported, match=r"'pytorch_model\.bin' is never opened.*safetensors"):
        open_model(folder, models)


def test_a_folder_with_a_gguf_file(tmp_path: Path) -> None:
    (tmp_path / "some.gguf").touch()
    with pytest.raises(BadModelFile, match=r"no config\.json; 'some\.gguf' is opened by its own"):
        open_model(tmp_path, models)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(BadModelFile, match=r"no config\.json$"):
        open_model(tmp_path, models)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(BadModelFile, match=r"no \*\.safetensors file$"):
        open_model(tmp_path, models)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_what_is_no_regular_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(BadModelFile, match="not a regular file"):
        open_model(folder, models)
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    with pytest.raises(BadModelFile, match="not a regular file"):
        open_model(folder, models)


def test_links_to_files_elsewhere_are_followed(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (folder / name).rename(tmp_path / f"blob-{name}")
        (folder / name).symlink_to(tmp_path / f"blob-{name}")
    open_model(folder, models)


def test_a_huge_config(folder: Path) -> None:
    with (folder / "config.json").open("r+b") as file:
        file.truncate(1 << 30)
    with pytest.raises(BadModelFile, match=r"'config\.json' is longer than 16777216 bytes"):
        open_model(folder, models)
