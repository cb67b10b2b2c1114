"""Hugging Face folders: what is opened, what never is, and one clear error for each fault."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pagemill import models
from pagemill.errors import BadModelFile, Unsupported
from pagemill.ops.reference import ReferenceOps
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


def built(folder: Path) -> models.Model:
    checkpoint = open_model(folder, models)
    return models.build(checkpoint.card, ReferenceOps(), checkpoint.source)


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


NAMED = [
    ("hidden_size", "x", "'hidden_size': is a string, not a whole number"),
    ("hidden_size", 0, "'hidden_size': is 0, not in 1 to"),
    ("hidden_size", -8, "'hidden_size': is -8, not in 1 to"),
    ("hidden_size", 8.0, "'hidden_size': is 8.0 .float., not a whole number"),
    ("hidden_size", None, "'hidden_size': is missing"),
    ("hidden_size", True, "'hidden_size': is True .bool., not a whole number"),
    ("num_hidden_layers", 1 << 40, "'num_hidden_layers': is 1099511627776, not in 1 to 4096"),
    ("num_attention_heads", 3, "'num_attention_heads': is 3, which does not divide width 8"),
    ("num_key_value_heads", 3, "'num_key_value_heads': is 3, not in 0 to 2"),
    ("vocab_size", 7, "'vocab_size': is 7, the embedding has 6 rows"),
    ("max_position_embeddings", [32], "'max_position_embeddings': is an array"),
    ("intermediate_size", {}, "'intermediate_size': is an object"),
    ("rms_norm_eps", "1e-5", "'rms_norm_eps': is a string, not a floating-point number"),
    ("rms_norm_eps", float("nan"), "'rms_norm_eps': is nan, not above 0"),
    ("rms_norm_eps", -1, "'rms_norm_eps': is -1 .int., not a floating-point number"),
    ("rope_theta", float("inf"), "'rope_theta': is inf, not above 0"),
    ("rope_theta", 0, "'rope_theta': is 0"),
    ("rope_parameters", "x", "'rope_theta': it, or what it is made from, is missing"),
    ("rope_parameters", {"rope_type": 3}, "'rope_type': is 3 .int., not a string"),
    ("architectures", [], "'architectures' does not name a network's class"),
    ("architectures", "LlamaForCausalLM", "'architectures' does not name a network's class"),
    ("architectures", None, "'architectures' does not name a network's class"),
    ("architectures", [3], "'architectures' does not name a network's class"),
]


@pytest.mark.parametrize(("key", "value", "message"), NAMED)
def test_a_wrong_setting_is_named_as_the_file_calls_it(
    tmp_path: Path, key: str, value: object, message: str
) -> None:
    folder = write_folder(tmp_path / "some", config={**CONFIG, key: value})
    with pytest.raises(BadModelFile, match=message):
        built(folder)


@pytest.mark.parametrize("name", llama_tensors())
def test_a_missing_tensor_is_named_as_the_folder_calls_it(tmp_path: Path, name: str) -> None:
    tensors = {other: values for other, values in llama_tensors().items() if other != name}
    message = name.replace("gate_proj", "up_proj")  # which might be both, and has too few rows
    with pytest.raises(BadModelFile, match=f"^'some': .*{message}"):
        built(write_folder(tmp_path / "some", tensors))


def test_an_unknown_class_lists_those_there_are(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "some", config={**CONFIG, "architectures": ["NoSuchModel"]})
    with pytest.raises(Unsupported, match=r"'NoSuchModel' is not supported.*LlamaForCausalLM"):
        open_model(folder, models)


AUDIT = """
import sys
from pathlib import Path

folder, seen = Path(sys.argv[1]), []

def hook(event, arguments):
    if event in ("open", "exec", "compile", "import"):
        seen.extend(str(argument) for argument in arguments)

from pagemill import models
from pagemill.ops.reference import ReferenceOps
from pagemill.ops.reference import ReferenceOps
from pagemill.weights.load import open_model

sys.addaudithook(hook)
checkpoint = open_model(folder, models)
models.build(checkpoint.card, ReferenceOps(), checkpoint.source)
opened = {Path(name).name for name in seen if str(folder) in name and Path(name).is_file()}
print(sorted(opened))
assert not any(module.endswith(("modeling_evil", "configuration_evil")) for module in sys.modules)
"""


def test_code_of_a_folder_is_never_run(tmp_path: Path) -> None:
    """Neither are its other files opened, whatever config.json asks for."""
    evil = {
        "auto_map": {"AutoConfig": "configuration_evil.Evil", "AutoModel": "modeling_evil.Evil"},
        "trust_remote_code": True,
    }
    folder = write_folder(tmp_path / "some", config={**CONFIG, **evil})
    for name in ("modeling_evil.py", "configuration_evil.py", "__init__.py"):
        (folder / name).write_text("raise SystemExit('was run')")
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    done = subprocess.run(
        [sys.executable, "-c", AUDIT, str(folder)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "['config.json', 'model.safetensors']"


def test_a_head_that_should_be_there(tmp_path: Path) -> None:
    config = {**CONFIG, "tie_word_embeddings": False}
    folder = write_folder(tmp_path / "some", config=config)
    with pytest.raises(BadModelFile, match=r"'lm_head.weight' is missing.*tie_word_embeddings"):
        open_model(folder, models)
    tensors = llama_tensors()
    head = tensors["model.embed_tokens.weight"] + 1
    untied = write_folder(tmp_path / "untied", {**tensors, "lm_head.weight": head}, config)
    checkpoint = open_model(untied, models)
    assert not checkpoint.card.tied_embeddings
    tied = write_folder(tmp_path / "tied", {**tensors, "lm_head.weight": head})
    assert open_model(tied, models).card.tied_embeddings  # config.json has the last word


@pytest.mark.parametrize("prefix", ["", "model.language_model.", "language_model.model."])
def test_names_may_begin_otherwise(tmp_path: Path, prefix: str) -> None:
    """Of a network without its head, or as a part of one that sees, too."""
    tensors = {
        name.replace("model.", prefix, 1): values for name, values in llama_tensors().items()
    }
    if prefix:
        tensors["vision_tower.patches.weight"] = np.ones((2, 2), np.float32)
    built(write_folder(tmp_path / "some", tensors))


def test_a_tensor_that_nobody_would_use_is_refused(tmp_path: Path) -> None:
    more = {"model.layers.0.self_attn.extra.weight": np.ones((2, 2), np.float32)}
    folder = write_folder(tmp_path / "some", {**llama_tensors(), **more})
    with pytest.raises(Unsupported, match=r"self_attn\.extra\.weight' has no place"):
        built(folder)


@pytest.mark.parametrize("dtype", ["F64", "I32"])
def test_a_dtype_that_nothing_computes_with(tmp_path: Path, dtype: str) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    wide = {name: llama_tensors()[name].astype("<f8" if dtype == "F64" else "<i4")}
    folder = write_folder(tmp_path / "some", {**llama_tensors(), **wide})
    with pytest.raises(Unsupported, match=f"format {dtype}"):
        built(folder)


def test_the_activation_is_the_folders(tmp_path: Path) -> None:
    def first_layer(name: str | None) -> models.Model:
        folder = tmp_path / str(name)
        return built(write_folder(folder, config={**CONFIG, "hidden_act": name})).layers[0]

    assert first_layer(None).ffn.activation == first_layer("silu").ffn.activation == "silu"
    assert first_layer("gelu_new").ffn.activation == "gelu_tanh"
    with pytest.raises(Unsupported, match="'hidden_act': 'quick_gelu' cannot be run, only gelu, "):
        first_layer("quick_gelu")
