"""docs/support.md says what the sources say."""

import pytest

pytest.importorskip("pagemill._native", reason="the native kernels are not built")

from tests.make_support import PAGE, page


def test_the_page_is_what_the_sources_say() -> None:
    assert PAGE.read_text("utf-8") == page(), "run `python -m tests.make_support`"


def test_every_class_that_golden_files_have_is_listed() -> None:
    text = page()
    assert "| LlamaForCausalLM | text | GGUF, safetensors |" in text
    assert "| Q8_0 | 8.5 | same values | 8.5" in text
    assert "| IQ2_XS | 2.31 | same values | 3.6" in text
    assert "| FP8 |" in text and "nearest: Q8_0" in text
