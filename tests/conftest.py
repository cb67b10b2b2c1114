"""Fixtures that several rooms share; what one room needs belongs to its own tests."""

import os
from pathlib import Path

import pytest

_SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def tiny_llama_path() -> Path:
    """A random Llama of 2 layers with a byte-level tokenizer and a chat template, in F32."""
    return Path(__file__).parent / "golden" / "tiny_llama.gguf"


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """The real model: PAGEMILL_TEST_MODEL, else what `pagemill pull smollm2` left in the store."""
    if given := os.environ.get("PAGEMILL_TEST_MODEL"):
        return Path(given)
    from pagemill import hub  # most tests need no store

    home = Path(os.environ.get("PAGEMILL_HOME", Path.home() / ".pagemill"))
    stored = hub.resolve("smollm2", hub.Store(home)) if hasattr(hub, "resolve") else None
    if stored is None:
        pytest.skip(f"{_SMOLLM2} is not here: run `pagemill pull smollm2` first")
    return stored.path
