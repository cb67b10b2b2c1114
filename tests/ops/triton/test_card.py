"""What kernels are told of a card: not every one has what a Hopper has."""

import subprocess
from types import SimpleNamespace

import pytest
import torch
from triton.runtime.driver import driver

from pagemill.errors import Unsupported
from pagemill.ops.triton.card import LARGE, SMALL, Card, card_of, runs_kernels
from pagemill.ops.triton.decode import decode_tiles
from pagemill.ops.triton.prefill import prefill_tiles

KIB = 1 << 10


@pytest.mark.parametrize(
    ("capability", "shared", "wide"),
    [
        ((8, 0), 163, False),
        ((8, 9), 99, False),
        ((9, 0), 227, True),
        ((10, 3), 227, True),
        ((12, 0), 99, False),  # newer than a Hopper, and as small as an Ada
    ],
)
def test_cards_say_what_a_program_may_have(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], shared: int, wide: bool
) -> None:
    said = SimpleNamespace(
        major=capability[0],
        minor=capability[1],
        multi_processor_count=70,
        shared_memory_per_block=48 * KIB,
        shared_memory_per_block_optin=shared * KIB,
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: said)
    card_of.cache_clear()
    assert card_of(torch.device("cuda", 0)) == Card(70, shared * KIB, wide)
    card_of.cache_clear()


@pytest.mark.parametrize(("dim", "latent"), [(128, 0), (256, 0), (576, 512)])
@pytest.mark.parametrize("itemsize", [1, 2, 4])
def test_tiles_fit_the_memory_of_small_cards(dim: int, latent: int, itemsize: int) -> None:
    """Queries, and as many tiles of the history as are on their way."""
    for group in (1, 8, 128):
        for card in (SMALL, LARGE, Card(110, 64 * KIB, wide=False)):
            token_bytes = dim * itemsize * (1 if latent else 2)
            tiles = [decode_tiles(group, dim, itemsize, card, latent)]
            if itemsize > 1:
                tiles.append(prefill_tiles(group, dim, itemsize, 512, card, latent))
            for queries, tokens, _, num_stages in tiles:
                on_their_way = num_stages // 2 * tokens * token_bytes
                assert max(2, itemsize) * queries * dim + on_their_way < card.shared


class Driver:
    """Triton's, which finds no compiler until there is one."""

    def __init__(self, found: bool) -> None:
        self._found = found

    @property
    def utils(self) -> object:
        if not self._found:
            raise subprocess.CalledProcessError(1, ["gcc", "driver.c"])
        return object()


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (12, 1)])
def test_old_cards_compute_without_kernels(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(driver, "_active", Driver(found=True))
    assert runs_kernels(torch.device("cuda", 0)) == (capability >= (8, 0))
    assert not runs_kernels(torch.device("cpu"))


def test_without_a_compiler_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(driver, "_active", Driver(found=False))
    with pytest.raises(Unsupported, match=r"gcc.*python3-dev.*--backend torch --device cuda:1"):
        runs_kernels(torch.device("cuda", 1))
