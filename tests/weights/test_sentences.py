"""Folders of sentence-transformers: how vectors are pooled, how long texts are; what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pagemill import models
from pagemill.errors import BadModelFile, PagemillError, Unsupported
from pagemill.ops.reference import ReferenceOps
from pagemill.weights.load import open_model
from pagemill.weights.safetensors import SafetensorsFile
from tests.weights.safetensors_writer import file_of

GOLDEN = Path(__file__).parents[1] / "golden" / "encoders"
TYPE = "sentence_transformers.models."
NETWORK = {"idx": 0, "name": "0", "path": "", "type": f"{TYPE}Transformer"}
POOLING = {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{TYPE}Pooling"}
NORMALIZE = {"idx": 2, "name": "2", "path": "2_Normalize", "type": f"{TYPE}Normalize"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(GOLDEN / "bert", tmp_path / "some")


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value))


def add_modules(folder: Path, modules: Any, **pooling: Any) -> None:
    write(folder / "modules.json", modules)
    write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 16, **pooling})


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_lasttoken": True, "include_prompt": True}, "last"),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, "mean"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": "lasttoken"}, "last"),
    ],
)
def test_pooling_is_what_the_folder_says(
    folder: Path, config: dict[str, Any], pooling: str
) -> None:
    add_modules(folder, [NETWORK, POOLING, NORMALIZE], **config)
    assert open_model(folder, models).card.pooling == pooling


def test_a_decoder_whose_folder_pools_gives_vectors(tmp_path: Path) -> None:
    folder = shutil.copytree(GOLDEN.parent / "llama", tmp_path / "some")
    assert open_model(folder, models).card.pooling == ""
    add_modules(folder, [NETWORK, POOLING], pooling_mode_lasttoken=True)
    checkpoint = open_model(folder, models)
    assert checkpoint.card.pooling == "last"
    models.build(checkpoint.card, ReferenceOps(), checkpoint.source)


def test_shorter_texts_than_the_network_allows(folder: Path) -> None:
    add_modules(folder, [NETWORK, POOLING], pooling_mode="mean")
    write(folder / "sentence_bert_config.json", {"max_seq_length": 20, "do_lower_case": False})
    checkpoint = open_model(folder, models)
    assert checkpoint.card.context_length == 20
    models.build(checkpoint.card, ReferenceOps(), checkpoint.source)
    write(folder / "sentence_bert_config.json", {"max_seq_length": None})
    assert open_model(folder, models).card.context_length == 48


def test_a_classifier_pools_as_its_network_does(tmp_path: Path) -> None:
    folder = shutil.copytree(GOLDEN / "reranker", tmp_path / "some")
    add_modules(folder, [NETWORK, POOLING], pooling_mode="mean")
    assert open_model(folder, models).card.pooling == "rank"


@pytest.mark.parametrize(
    ("modules", "pooling", "error", "words"),
    [
        (
            [NETWORK, POOLING, {"type": f"{TYPE}Dense", "path": "2_Dense"}],
            "mean",
            Unsupported,
            "Dense",
        ),
        ([NETWORK, {"type": "my.Thing", "path": "x"}], "mean", Unsupported, "'Thing' module"),
        ([NETWORK, POOLING], "max", Unsupported, "'max'"),
        ([NETWORK, POOLING], 5, Unsupported, "of nothing"),
        ([NETWORK, {**POOLING, "path": "../1_Pooling"}], "mean", BadModelFile, "not the name"),
        ([NETWORK, {**POOLING, "path": "/etc"}], "mean", BadModelFile, "not the name"),
        ([NETWORK, {**POOLING, "path": ""}], "mean", BadModelFile, "not the name"),
        ([NETWORK, {**POOLING, "path": "2_Pooling"}], "mean", BadModelFile, "config.json"),
        ([NETWORK, {"type": 5, "path": ""}], "mean", BadModelFile, "'type'"),
        ([NETWORK, "x"], "mean", BadModelFile, "list of objects"),
        ({"a": 1}, "mean", BadModelFile, "list of objects"),
    ],
)
def test_what_would_change_the_vector_is_refused(
    folder: Path, modules: Any, pooling: Any, error: type[PagemillError], words: str
) -> None:
    add_modules(folder, modules, pooling_mode=pooling)
    with pytest.raises(error, match=words):
        open_model(folder, models)


def test_two_poolings_at_once_are_refused(folder: Path) -> None:
    add_modules(folder, [POOLING], pooling_mode_mean_tokens=True, pooling_mode_cls_token=True)
    with pytest.raises(Unsupported, match=r"mean_tokens and cls_token|cls_token and mean_tokens"):
        open_model(folder, models)


@pytest.mark.parametrize("length", [0, -1, 1.5, "256", True])
def test_a_length_that_is_none_is_refused(folder: Path, length: Any) -> None:
    add_modules(folder, [NETWORK, POOLING], pooling_mode="mean")
    write(folder / "sentence_bert_config.json", {"max_seq_length": length})
    with pytest.raises(BadModelFile, match="sentence_length"):
        open_model(folder, models)


def test_norms_under_their_old_names(folder: Path) -> None:
    file = SafetensorsFile.open(folder / "model.safetensors")
    tensors = {}
    for name, info in file.tensors.items():
        old = name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta")
        raw = file.data(name).view(np.uint16).reshape(info.shape)
        tensors[old] = (raw.astype(np.uint32) << 16).view(np.float32)
    new = open_model(folder, models).source.vector(("token_embd_norm", 16))
    (folder / "model.safetensors").write_bytes(file_of(tensors))
    checkpoint = open_model(folder, models)
    np.testing.assert_array_equal(checkpoint.source.vector(("token_embd_norm", 16)), new)
    models.build(checkpoint.card, ReferenceOps(), checkpoint.source)
