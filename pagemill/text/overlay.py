"""What a created model says beside its base: template, opening messages, defaults of sampling.

Owns the small file that lies beside the weights, which several models share. It is read as
strictly as files of others: anybody may have changed it.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from pagemill.errors import BadModelFile
from pagemill.small_files import read_bytes
from pagemill.text.messages import Message
from pagemill.types import KNOB_RANGES, WHOLE_KNOBS, GenerationDefaults

FILE = "pagemill.json"
MAX_OPENING = 64  # messages
_MAX_BYTES = 1 << 20
_MAX_STOP_IDS = 128


class Opening(msgspec.Struct, frozen=True):
    """A message that conversations begin with."""

    role: Literal["system", "user", "assistant"]
    content: str


class Overlay(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """`base` is the model that it was made from, `model` the file beside it that this is for: ""
    for their folder. What is empty is as the base has it."""

    base: str
    model: str = ""
    template: str = ""
    system: str = ""
    messages: tuple[Opening, ...] = ()
    defaults: dict[str, int | float] = {}
    stop_ids: tuple[int, ...] = ()
    license: str = ""

    @property
    def says_something(self) -> bool:
        """Whether a model with it differs from its base."""
        return self != Overlay(self.base, self.model)

    @property
    def opening(self) -> tuple[Message, ...]:
        """The messages before a conversation's own; the system's first."""
        first = [Message("system", self.system)] if self.system else []
        return (*first, *(Message(one.role, one.content) for one in self.messages))

    def over(self, under: "Overlay | None") -> "Overlay":
        """Both: where this one says nothing, the other counts."""
        if under is None:
            return self
        return Overlay(
            base=self.base,
            model=self.model,
            template=self.template or under.template,
            system=self.system or under.system,
            messages=self.messages or under.messages,
            defaults={**under.defaults, **self.defaults},
            stop_ids=tuple(dict.fromkeys((*under.stop_ids, *self.stop_ids))),
            license=self.license or under.license,
        )

    def laid_over(self, defaults: GenerationDefaults) -> GenerationDefaults:
        """A model's defaults with these in front."""
        ids = tuple(dict.fromkeys((*defaults.stop_ids, *self.stop_ids)))
        values: Mapping[str, Any] = {**self.defaults, "stop_ids": ids}
        return replace(defaults, **values)

    def written(self) -> bytes:
        """The file. BadModelFile for what could not be read again."""
        raw = msgspec.json.format(msgspec.json.encode(self), indent=1)
        _read(raw)
        return raw


def read_overlay(path: Path) -> Overlay | None:
    """What lies beside the model at `path`, a file or a folder. BadModelFile for nonsense."""
    is_folder = path.is_dir()
    file = (path if is_folder else path.parent) / FILE
    if not file.is_file():
        return None
    overlay = _read(read_bytes(file, _MAX_BYTES))
    return overlay if overlay.model == ("" if is_folder else path.name) else None


def checked_knob(name: str, value: float) -> int | float:
    """The value of a default, within its range. ValueError says which that is."""
    low, high = KNOB_RANGES[name]
    if name in WHOLE_KNOBS and value != int(value):
        raise ValueError(f"{value:g} is no whole number")
    if not low <= value <= high:
        raise ValueError(f"{value:g} is not within {low:g} to {high:g}")
    if name in WHOLE_KNOBS:
        return max(int(value), 0) if name == "top_k" else int(value)
    return value


def _read(raw: bytes) -> Overlay:
    if len(raw) > _MAX_BYTES:
        raise BadModelFile(f"{FILE} is longer than {_MAX_BYTES} bytes")
    try:
        overlay = msgspec.json.decode(raw, type=Overlay)
        for name, value in overlay.defaults.items():
            if name not in KNOB_RANGES:
                raise ValueError(f"defaults: {name[:64]!a} is no parameter")
            checked_knob(name, value)
    except (ValueError, RecursionError) as error:  # msgspec's own are ValueErrors
        raise BadModelFile(f"{FILE}: {error}") from None
    ids, count = overlay.stop_ids, len(overlay.messages)
    if len(ids) > _MAX_STOP_IDS or min(ids, default=0) < 0:
        raise BadModelFile(f"{FILE}: stop_ids must be at most {_MAX_STOP_IDS} ids")
    if count > MAX_OPENING:
        raise BadModelFile(f"{FILE}: {count} messages, the limit is {MAX_OPENING}")
    return overlay
