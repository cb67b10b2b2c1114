"""What the server needs of the rooms behind it, as protocols: the seam where tests put fakes.

`pagemill.runtime.Runtime` fulfils `ModelRuntime`. Nothing here names a backend or a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from pagemill.types import EngineClient, EnginePlan, GenerationDefaults, ModelCard

if TYPE_CHECKING:
    from pagemill.text.chat import ChatTemplate
    from pagemill.text.tokenizer import Tokenizer


class ServedModel(Protocol):
    """A loaded model: text on one side, the engine's door on the other."""

    @property
    def name(self) -> str: ...
    @property
    def card(self) -> ModelCard: ...
    @property
    def plan(self) -> EnginePlan: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def template(self) -> ChatTemplate | None: ...
    @property
    def defaults(self) -> GenerationDefaults: ...
    @property
    def client(self) -> EngineClient: ...
    @property
    def created(self) -> int: ...
    @property
    def pair_template(self) -> str: ...


class ListedModel(Protocol):
    """One line of the model list. `max_model_len`, and `pooling` of its card, are known once the
    model is loaded."""

    @property
    def name(self) -> str: ...
    @property
    def created(self) -> int: ...
    @property
    def max_model_len(self) -> int | None: ...
    @property
    def loaded(self) -> bool: ...
    @property
    def pooling(self) -> str | None: ...


class ModelRuntime(Protocol):
    """Names to models, loading them on first use."""

    async def model(self, name: str) -> ServedModel:
        """The loaded model. Raises UnknownModel (lists the choices) or Unavailable."""
        ...

    def names(self) -> Sequence[ListedModel]: ...
    def loaded(self) -> Sequence[ServedModel]: ...
    async def unload(self, name: str) -> None: ...
    async def close(self, drain_s: float = 0) -> None: ...
