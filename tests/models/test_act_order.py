"""GPTQ with act-order: networks compute with what the files mean, exactly."""

from pathlib import Path

import numpy as np

from pagemill import models
from pagemill.models import Model
from pagemill.ops.interface import Float32
from pagemill.ops.reference import ReferenceOps
from pagemill.weights.load import open_model
from tests.models import random_folders as random
from tests.models.test_golden import logits, new_kv
from tests.models.test_quantized_folders import Tensors

PROMPT = np.array([5, 3, 40, 7, 7, 90, 4], np.int32)
CONFIG = {"quant_method": "gptq", "bits": 4}


def meaning(parts: Tensors) -> Float32:
    """(q - z) * s with the scale and zero point of each input's group."""
    shifts = np.arange(0, 32, 4, dtype=np.uint32)
    raw, zeros = (parts[name].view(np.uint32) for name in ("qweight", "qzeros"))
    codes = (raw[:, None] >> shifts[:, None] & 15).reshape(-1, raw.shape[1])  # (inputs, outputs)
    points = (zeros[..., None] >> shifts & 15).reshape(len(zeros), -1) + 1
    groups = parts["g_idx"]
    numbers = codes.astype(np.float32) - points[groups].astype(np.float32)
    return (numbers * parts["scales"].astype(np.float32)[groups]).T


def network(folder: Path) -> Model:
    checkpoint = open_model(folder, models)
    return models.build(checkpoint.card, ReferenceOps(), checkpoint.source)


def test_sorted_inputs_change_no_number(tmp_path: Path) -> None:
    quantize = random.gptq(64, act_order=True)

    def plain(rng: np.random.Generator, outputs: int, inputs: int) -> Tensors:
        return {"weight": meaning(quantize(rng, outputs, inputs))}

    ours = network(random.folder_of(tmp_path / "ours", quantize, CONFIG, {}))
    exact = network(random.folder_of(tmp_path / "exact", plain, {}, {}))
    expected = logits(exact, new_kv(exact), (PROMPT, 0))
    np.testing.assert_array_equal(logits(ours, new_kv(ours), (PROMPT, 0)), expected)
    checkpoint = open_model(tmp_path / "ours", models)
    weight = checkpoint.source.matrix(("blk.0.ffn_down", random.HIDDEN), k=random.INNER)
    assert weight.formats == ("INT4",) and weight.orders[0] is not None
