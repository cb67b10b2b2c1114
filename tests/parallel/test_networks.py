"""Every architecture in several processes: tokens and logits are those of one."""

from pathlib import Path

import numpy as np
import pytest

from pagemill import models
from pagemill.weights.load import open_model
from tests.models import random_folders
from tests.models.test_golden import FOLDERS, HERE, Golden
from tests.models.test_quantized_folders import write
from tests.parallel.ranks import Loaded, Ranks, alone, plan_of

CLOSE = 1e-5  # of the largest logit


def divides(folder: Path, tensor: int) -> bool:
    card = open_model(folder, models).card
    smaller, larger = sorted((card.kv_heads, tensor))
    return not card.heads % tensor and not larger % smaller


TWO = [folder for folder in FOLDERS if divides(folder, 2)]


def check(network: Loaded, one: Loaded, folder: Path) -> None:
    golden = Golden(folder, folder / "golden.npz")
    for prompt, _, expected in golden.expected():
        ids = prompt.tolist()
        tokens, logits = network.greedy(ids, len(expected))
        assert tokens == expected.tolist()
        _, wanted = one.greedy(ids, len(expected))
        np.testing.assert_allclose(logits, wanted, rtol=0, atol=CLOSE * np.abs(wanted).max())


def test_most_networks_divide() -> None:
    assert len(TWO) >= len(FOLDERS) - 3


# In four: one of each kind of attention, of feed-forward network, and of arranging them.
KINDS = ("deepseek3", "falcon", "gemma2", "gpt2", "gpt_oss", "granitehybrid", "olmo2", "qwen2moe")
CASES = [
    *((folder, 2, 1) for folder in TWO),
    *((folder, 1, 2) for folder in FOLDERS),
    *((HERE / kind, 2, 2) for kind in KINDS),
    # Four ranks have two heads of keys and values between them.
    *((HERE / kind, 4, 1) for kind in ("deepseek3", "gpt_oss", "llama", "qwen3")),
]


@pytest.mark.parametrize(
    "folder, tensor, pipeline", CASES, ids=lambda case: getattr(case, "name", str(case))
)
def test_golden_networks(ranks: Ranks, folder: Path, tensor: int, pipeline: int) -> None:
    plan = plan_of(folder, tensor, pipeline)
    with ranks.load(plan) as network, alone(plan) as one:
        check(network, one, folder)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama whose widths are several blocks of every format."""
    hidden, inner, vocabulary = 64, 128, 96
    rng = np.random.default_rng(7)
    shapes = {"model.embed_tokens": (vocabulary, hidden), "lm_head": (vocabulary, hidden)}
    for layer in range(2):
        at = f"model.layers.{layer}"
        shapes |= {f"{at}.self_attn.{name}_proj": (hidden, hidden) for name in "qo"}
        shapes |= {f"{at}.self_attn.{name}_proj": (hidden // 2, hidden) for name in "kv"}
        shapes |= {f"{at}.mlp.{name}_proj": (inner, hidden) for name in ("gate", "up")}
        shapes |= {f"{at}.mlp.down_proj": (hidden, inner)}
        shapes |= {f"{at}.{name}_layernorm": (hidden,) for name in ("input", "post_attention")}
    shapes |= {"model.norm": (hidden,)}
    tensors = {
        f"{name}.weight": (rng.normal(size=shape) / 4).astype(np.float32)
        for name, shape in shapes.items()
    }
    config = {"hidden_size": hidden, "intermediate_size": inner, "head_dim": 16}
    return write(tmp_path_factory.mktemp("wide") / "model", tensors, {}, config)


@pytest.mark.parametrize("quantization", ["int8", "int4", "fp8"])
def test_quantized_weights(ranks: Ranks, wide: Path, quantization: str) -> None:
    """Blocks are cut where they end: what they mean stays the same."""
    plan = plan_of(wide, 2, quantization=quantization)
    with ranks.load(plan) as network, alone(plan) as one:
        tokens, logits = network.greedy([5, 3, 40, 7], 12)
        expected, wanted = one.greedy([5, 3, 40, 7], 12)
    assert tokens == expected
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=CLOSE * np.abs(wanted).max())


def test_inputs_that_were_sorted(ranks: Ranks, tmp_path: Path) -> None:
    """GPTQ's act-order: what is cut by outputs stays sorted in four bits, what is cut by inputs
    becomes the nearest Q8_0."""
    config = {"quant_method": "gptq", "bits": 4}
    folder = random_folders.folder_of(
        tmp_path / "model", random_folders.gptq(128, act_order=True), config, {}
    )
    plan = plan_of(folder, 2)
    with ranks.load(plan) as network, alone(plan) as one:
        got, wanted = network.logits(([5, 3, 40, 7], 0)), one.logits(([5, 3, 40, 7], 0))
    error = np.abs(got - wanted).max() / np.abs(wanted).max()
    assert 0 < error < 0.02


@pytest.mark.parametrize("kind", ["llama", "gemma3", "granitehybrid", "deepseek3", "qwen3moe"])
def test_on_tensors(ranks: Ranks, kind: str) -> None:
    """The backend of torch's own calls, by heads and by layers."""
    plan = plan_of(HERE / kind, 2, 2, backend="torch", device="cpu", dtype="float32")
    with ranks.load(plan) as network, alone(plan) as one:
        check(network, one, HERE / kind)


def test_rows_together(ranks: Ranks) -> None:
    """Prompts of several lengths in one step."""
    plan = plan_of(HERE / "qwen2", 2, 2)
    rows = [([5, 3, 40], 0), ([7] * 9, 0), ([90], 0)]
    with ranks.load(plan) as network, alone(plan) as one:
        got, wanted = network.logits(*rows), one.logits(*rows)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=CLOSE * np.abs(wanted).max())
