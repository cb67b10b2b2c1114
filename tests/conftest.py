"""Fixtures that several rooms share; what one room needs belongs to its own tests."""

import os
from pathlib import Path

import pytest

from pagemill import hub
from pagemill.hub.store import Store

# Kernels in Triton are tested by its interpreter. Triton decides when it is first imported, which
# other libraries do too: no later place is early enough.
os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session")
def tiny_llama_path() -> Path:
    """A random Llama of 2 layers with a byte-level tokenizer and a chat template, in F32."""
    return Path(__file__).parent / "golden" / "tiny_llama.gguf"


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """The real model: PAGEMILL_TEST_MODEL, else what `pagemill pull smollm2` left in the store."""
    if given := os.environ.get("PAGEMILL_TEST_MODEL"):
        return Path(given)
    home = Path(os.environ.get("PAGEMILL_HOME", Path.home() / ".pagemill"))
    stored = hub.resolve("smollm2", Store(home))
    if stored is None:
        pytest.skip("SmolLM2 is not in the store: run `pagemill pull smollm2` first")
    return stored.path


@pytest.fixture(scope="session")
def published_templates() -> Path:
    """A folder of chat templates that models were published with: PAGEMILL_TEST_TEMPLATES."""
    given = os.environ.get("PAGEMILL_TEST_TEMPLATES")
    if not given:
        pytest.skip("PAGEMILL_TEST_TEMPLATES names no folder; `.ci/run` shows where to get one")
    return Path(given)


@pytest.fixture(scope="session")
def published_vocabularies() -> Path:
    """A folder of vocabularies that models were published with: PAGEMILL_TEST_VOCABULARIES."""
    given = os.environ.get("PAGEMILL_TEST_VOCABULARIES")
    if not given:
        pytest.skip("PAGEMILL_TEST_VOCABULARIES names no folder; `.ci/run` shows where to get one")
    return Path(given)
