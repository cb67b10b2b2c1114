"""Folders of a small random Llama whose matrices a method has quantized: random codes and scales in
the method's own packing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.models.test_quantized_folders import Tensors, awq_words, write

HIDDEN, INNER, VOCABULARY, LAYERS = 256, 512, 96, 2
CONFIG = {
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "head_dim": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": LAYERS,
    "vocab_size": VOCABULARY,
}
Quantize = Callable[[np.random.Generator, int, int], Tensors]  # outputs, inputs


def shapes() -> dict[str, tuple[int, ...]]:
    """Of all modules, by name."""
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens": (VOCABULARY, HIDDEN),
        "lm_head": (VOCABULARY, HIDDEN),
        "model.norm": (HIDDEN,),
    }
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        found |= {f"{at}.self_attn.{name}_proj": (HIDDEN, HIDDEN) for name in "qo"}
        found |= {f"{at}.self_attn.{name}_proj": (HIDDEN // 2, HIDDEN) for name in "kv"}
        found |= {f"{at}.mlp.{name}_proj": (INNER, HIDDEN) for name in ("gate", "up")}
        found |= {f"{at}.mlp.down_proj": (HIDDEN, INNER)}
        found |= {f"{at}.{name}_layernorm": (HIDDEN,) for name in ("input", "post_attention")}
    return found


def folder_of(
    path: Path, quantize: Quantize | None, config: dict[str, Any], dtypes: dict[str, str]
) -> Path:
    """`dtypes` are those of parts of modules, where numpy has none."""
    rng, tensors, kinds = np.random.default_rng(11), Tensors(), {}
    for module, shape in shapes().items():
        if quantize is None or not module.endswith("_proj"):
            tensors[f"{module}.weight"] = (rng.normal(size=shape) / 8).astype(np.float32)
            continue
        parts = quantize(rng, *shape)
        tensors |= {f"{module}.{part}": tensor for part, tensor in parts.items()}
        kinds |= {f"{module}.{part}": kind for part, kind in dtypes.items()}
    asked = {"quantization_config": config} if config else {}
    return write(path, tensors, kinds, CONFIG | asked)


def awq(group: int) -> Quantize:
    def quantize(rng: np.random.Generator, outputs: int, inputs: int) -> Tensors:
        return {
            "qweight": awq_words(rng.integers(0, 16, (inputs, outputs))),
            "qzeros": awq_words(rng.integers(0, 16, (inputs // group, outputs))),
            "scales": scales(rng, inputs // group, outputs).astype(np.float16),
        }

    return quantize


def gptq(group: int, act_order: bool = False, symmetric: bool = False) -> Quantize:
    def quantize(rng: np.random.Generator, outputs: int, inputs: int) -> Tensors:
        zeros = rng.integers(0, 15, (inputs // group, outputs))
        if symmetric:
            zeros[:] = 7  # files have one less
        order = np.arange(inputs) // group
        return {
            "qweight": words(rng.integers(0, 16, (outputs, inputs))).T,
            "qzeros": words(zeros),
            "scales": scales(rng, inputs // group, outputs).astype(np.float16),
            "g_idx": (rng.permutation(order) if act_order else order).astype(np.int32),
        }

    return quantize


def signed_bytes(rng: np.random.Generator, outputs: int, inputs: int) -> Tensors:
    """Int8 with a scale for each output."""
    codes = rng.integers(-127, 128, (outputs, inputs)).astype(np.int8)
    return {"weight": codes, "weight_scale": scales(rng, outputs, 1).astype(np.float32) / 16}


def floats(rng: np.random.Generator, outputs: int, inputs: int) -> Tensors:
    """E4M3 with a scale for each tile of 128 x 128."""
    codes = rng.integers(0, 120, (outputs, inputs), np.uint8)
    codes |= rng.integers(0, 2, codes.shape, np.uint8) << 7
    tiles = scales(rng, -(-outputs // 128), -(-inputs // 128)).astype(np.float32)
    return {"weight": codes, "weight_scale_inv": tiles / 256}


def scales(rng: np.random.Generator, *shape: int) -> NDArray[np.float64]:
    return rng.uniform(0.002, 0.02, shape)


def words(numbers: NDArray[np.int64]) -> NDArray[np.int32]:
    """(rows, numbers below 16) -> (rows, words of eight), the first lowest."""
    eights = numbers.reshape(len(numbers), -1, 8)
    packed = (eights << 4 * np.arange(8)).sum(axis=2)
    return packed.astype(np.uint32).view(np.int32)
