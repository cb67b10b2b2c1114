"""What a model brings for the text side, whatever it is stored as: template, tokens, defaults.

The one place that tells a GGUF file from a model folder in this room; the keys belong to the
modules that it asks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pagemill.errors import BadModelFile
from pagemill.text.defaults import GENERATION_CONFIG, defaults_of_folder, defaults_of_gguf
from pagemill.text.messages import Message
from pagemill.text.overlay import FILE, Overlay, read_overlay
from pagemill.text.templates import (
    TemplateSource,
    template_of_folder,
    template_of_gguf,
    tokens_of_folder,
    tokens_of_gguf,
)
from pagemill.types import GenerationDefaults

CREATED = "what it was created with"  # for people: where a template or a default comes from


@dataclass(frozen=True, slots=True)
class ModelText:
    """`tokens` are special tokens by the name that templates know them under. `opening` are
    messages that stand before a conversation's own. `overlay`: what a created model adds."""

    template: TemplateSource | None
    tokens: Mapping[str, str]
    defaults: GenerationDefaults
    defaults_origin: str  # for people: what the defaults were read from
    overlay: Overlay | None = None

    @property
    def opening(self) -> tuple[Message, ...]:
        return self.overlay.opening if self.overlay else ()

    def origin(self, knob: str) -> str:
        """For people: where the default of a knob comes from."""
        made = self.overlay
        says = made is not None and (made.stop_ids if knob == "stop_ids" else knob in made.defaults)
        return CREATED if says else self.defaults_origin


def read_model_text(path: Path, metadata: Mapping[str, Any], vocab_size: int) -> ModelText:
    """Read a model's file or folder; `metadata` is that of the file. BadModelFile for nonsense."""
    brought = _of_folder(path, vocab_size) if path.is_dir() else _of_gguf(metadata)
    overlay = read_overlay(path)
    if overlay is None:
        return brought
    if overlay.stop_ids and max(overlay.stop_ids) >= vocab_size:
        raise BadModelFile(f"{FILE}: stop_ids: {max(overlay.stop_ids)}, of {vocab_size} tokens")
    template = brought.template
    if overlay.template:
        template = TemplateSource(overlay.template, CREATED)
    defaults = overlay.laid_over(brought.defaults)
    return replace(brought, template=template, defaults=defaults, overlay=overlay)


def _of_folder(path: Path, vocab_size: int) -> ModelText:
    return ModelText(
        template_of_folder(path),
        tokens_of_folder(path),
        defaults_of_folder(path, vocab_size),
        GENERATION_CONFIG,
    )


def _of_gguf(metadata: Mapping[str, Any]) -> ModelText:
    return ModelText(
        template_of_gguf(metadata),
        tokens_of_gguf(metadata),
        defaults_of_gguf(metadata),
        "the model file",
    )
