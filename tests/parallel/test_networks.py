"""Every architecture in several processes: tokens and logits are those of one."""

from pathlib import Path

import numpy as np
import pytest

from pagemill import models
from pagemill.weights.load import open_model
from tests.models.test_golden import FOLDERS, Golden
from tests.parallel.ranks import Loaded, Ranks, alone, plan_of

CLOSE = 1e-5  # of the largest logit


def divides(folder: Path, tensor: int) -> bool:
    card = open_model(folder, models).card
    smaller, larger = sorted((card.kv_heads, tensor))
    return not card.heads % tensor and not larger % smaller


TWO = [folder for folder in FOLDERS if divides(folder, 2)]
FOUR = [folder for folder in FOLDERS if divides(folder, 4)]


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
    assert len(FOUR) >= 10


@pytest.mark.parametrize("folder", TWO, ids=lambda folder: folder.name)
@pytest.mark.parametrize("tensor, pipeline", [(2, 1), (1, 2), (2, 2)])
def test_golden_networks(ranks: Ranks, folder: Path, tensor: int, pipeline: int) -> None:
    plan = plan_of(folder, tensor, pipeline)
    with ranks.load(plan) as network, alone(plan) as one:
        check(network, one, folder)
