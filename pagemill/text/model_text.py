"""What a model brings for the text side, whatever it is stored as: template, tokens, defaults.

The one place that tells a GGUF file from a model folder in this room; the keys belong to the
modules that it asks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pagemill.text.defaults import GENERATION_CONFIG, defaults_of_folder, defaults_of_gguf
from pagemill.text.templates import (
    TemplateSource,
    template_of_folder,
    template_of_gguf,
    tokens_of_folder,
    tokens_of_gguf,
)
from pagemill.types import GenerationDefaults


@dataclass(frozen=True, slots=True)
class ModelText:
    """`tokens` are special tokens by the name that templates know them under."""

    template: TemplateSource | None
    tokens: Mapping[str, str]
    defaults: GenerationDefaults
    defaults_origin: str  # for people: what the defaults were read from


def read_model_text(path: Path, metadata: Mapping[str, Any], vocab_size: int) -> ModelText:
    """Read a model's file or folder; `metadata` is that of the file. BadModelFile for nonsense."""
    if path.is_dir():
        return ModelText(
            template_of_folder(path),
            tokens_of_folder(path),
            defaults_of_folder(path, vocab_size),
            GENERATION_CONFIG,
        )
    return ModelText(
        template_of_gguf(metadata),
        tokens_of_gguf(metadata),
        defaults_of_gguf(metadata),
        "the model file",
    )
