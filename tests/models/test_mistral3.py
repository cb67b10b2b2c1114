"""Mistral 3: the text model inside of one that sees, and what its files may not say."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pagemill import models
from pagemill.errors import BadModelFile, PagemillError, Unsupported
from pagemill.ops.reference import ReferenceOps
from pagemill.weights.load import open_model
from pagemill.weights.safetensors import SafetensorsFile
from tests.models.test_golden import HERE as GOLDENS
from tests.models.test_golden import Golden, logits, new_kv
from tests.weights.safetensors_writer import file_of

SOURCE = GOLDENS / "mistral3"


def folder(made: Path, rope: dict[str, Any] | None = None, **text: Any) -> Path:
    """The golden folder as the part of a larger model that writes, with other settings."""
    made.mkdir()
    config = json.loads((SOURCE / "config.json").read_text()) | text
    config["rope_parameters"] |= rope or {}
    outer = {
        "architectures": ["Mistral3ForConditionalGeneration"],
        "model_type": "mistral3",
        "tie_word_embeddings": True,  # the text part says otherwise
        "text_config": config,
        "vision_config": {"hidden_size": 8, "num_hidden_layers": 1},
    }
    (made / "config.json").write_text(json.dumps(outer))
    stored = SafetensorsFile.open(SOURCE / "model.safetensors")
    tensors: dict[str, Any] = {
        f"language_model.{name}": stored.data(name).view("<u2").reshape(info.shape)
        for name, info in stored.tensors.items()
    }
    dtypes = dict.fromkeys(tensors, "BF16")
    for name in ("vision_tower.patch_conv.weight", "multi_modal_projector.linear_1.weight"):
        tensors[name] = np.ones((2, 2), np.float32)
    (made / "model.safetensors").write_bytes(file_of(tensors, dtypes))
    return made


def built(path: Path) -> models.Model:
    checkpoint = open_model(path, models)
    return models.build(checkpoint.card, ReferenceOps(), checkpoint.source)


def test_the_part_that_writes_is_run_without_the_one_that_sees(tmp_path: Path) -> None:
    prompt, expected, _ = Golden(SOURCE, SOURCE / "golden.npz").expected()[-1]
    model = built(folder(tmp_path / "some"))
    np.testing.assert_allclose(logits(model, new_kv(model), (prompt, 0)), expected, atol=1e-4)


def test_multipliers_of_the_attention_factor(tmp_path: Path) -> None:
    """mscale stands above the fraction, mscale_all_dim below it."""

    def scale(name: str, **rope: Any) -> float:
        found: float = built(folder(tmp_path / name, rope)).layers[0].attention.rope.scale
        return found

    grown = 0.1 * np.log(4.0)
    assert scale("as made") == pytest.approx((grown + 1) / (0.5 * grown + 1))
    assert scale("equal", mscale_all_dim=1.0) == 1.0
    assert scale("both", mscale=2.0) == pytest.approx((2 * grown + 1) / (0.5 * grown + 1))
    assert scale("one", mscale=None) == pytest.approx(grown + 1)
    assert scale("stated", attention_factor=0.7) == 0.7


def test_queries_of_older_ones_do_not_grow(tmp_path: Path) -> None:
    plain = {"rope_type": "default", "llama_4_scaling_beta": None}
    made = folder(tmp_path / "some", plain, model_type="mistral", sliding_window=None)
    attention = built(made).layers[0].attention
    assert attention.query_rope == attention.rope
    assert attention.rope.scale == 1.0


@pytest.mark.parametrize(
    "rope, text, error, message",
    [
        ({}, {"model_type": "mistral4"}, Unsupported, "text model of type 'mistral4' cannot be"),
        ({"rope_type": "linear"}, {}, Unsupported, "llama_4_scaling_beta.* positions of type yarn"),
        ({"partial_rotary_factor": 0.5}, {}, Unsupported, "llama_4_scaling_beta.*, 4 of 8 are"),
        ({"llama_4_scaling_beta": -1.0}, {}, BadModelFile, "llama_4_scaling_beta.* is -1.0, not"),
        ({"factor": "4"}, {}, BadModelFile, "'factor': is a string"),
        ({"mscale": "1"}, {}, BadModelFile, "'attention_factor': .* of a wrong kind"),
    ],
)
def test_what_cannot_be_run(
    tmp_path: Path,
    rope: dict[str, Any],
    text: dict[str, Any],
    error: type[PagemillError],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        built(folder(tmp_path / "some", rope, **text))
