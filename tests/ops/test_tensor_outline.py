"""What plans for devices count, where torch is not installed; `plain/test_outline.py` compares."""

from pathlib import Path

import pytest

from pagemill import models
from pagemill.footprint import footprint_of
from pagemill.ops.interface import Grouping
from pagemill.ops.plain.layouts.table import device_bits, matrix_bytes
from pagemill.weights.load import open_model

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize(
    ("form", "grouping", "kept", "bits"),
    [
        ("Q4_K", None, "Q4_K", 4.625),
        ("Q6_K", None, "Q6_K", 8.5625),
        ("INT4", None, "INT4", 5.25),
        ("INT4", Grouping(128, 2, zeros=True), "INT4", 4 + 24 / 128),
        ("INT4", Grouping(128, 2), "INT4", 4 + 16 / 128),
        ("INT8", Grouping(4096, 4), "INT8", 8 + 32 / 4096),
        ("FP8", Grouping(4096, 4), "FP8", 8 + 32 / 4096),
        ("FP8", Grouping(128, 4), "FP8", 8.25),
        ("FP8", Grouping(64, 4), "BF16", 16),
        ("IQ2_S", None, "BF16", 16),
        ("F32", None, "BF16", 16),
    ],
)
def test_bytes_follow_from_the_layout(
    form: str, grouping: Grouping | None, kept: str, bits: float
) -> None:
    assert matrix_bytes(form, 1024, 4096, "bfloat16", grouping) == (kept, 1024 * 512 * bits)
    if grouping is None:
        assert device_bits(form, "bfloat16") == bits


@pytest.mark.parametrize(
    ("backend", "device", "element"),
    [("torch", "cpu", 4), ("torch", "mps", 2), ("torch", "cuda:1", 2), ("cuda", "auto", 2)],
)
def test_a_network_takes_what_its_device_computes_in(
    backend: str, device: str, element: int
) -> None:
    footprint = footprint_of(open_model(GOLDEN / "tiny_llama.gguf", models), backend, device=device)
    assert footprint is not None
    card = open_model(GOLDEN / "tiny_llama.gguf", models).card
    (kept,) = footprint.weights
    assert kept.kept_bytes + footprint.vector_bytes * element // 4 == card.parameters * element
    assert footprint.kv_token_bytes == card.kv_elements * element
