"""The composition root: from names of models to loaded models that answer.

Owns which models are in memory: loading on first use, one load for all who wait, unloading, the
end. Knows every room and the order in which they meet; must not know HTTP, the terminal, or how
anything is computed. Server and command line see `Runtime` and `LoadedModel` only.

An engine process is started before anything is read: it imports its libraries while this process
reads the file's header and plans, and loads weights while this process builds the tokenizer and, if
`Runtime.prestart` was called in time, loads the libraries of its server.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pagemill.backends import with_backend
from pagemill.config import EngineConfig, Settings, TextConfig
from pagemill.engine.client import ProcessClient
from pagemill.engine.plan import plan as resolve_plan
from pagemill.engine.spawn import EngineProcess
from pagemill.errors import ConfigError, InvalidRequest, Unavailable, UnknownModel
from pagemill.footprint import footprint_of
from pagemill.hub import resolve
from pagemill.hub.store import Store, StoredModel
from pagemill.machine import this_machine
from pagemill.types import EnginePlan, GenerationDefaults, ModelCard

if TYPE_CHECKING:
    from pagemill.engine.engine import Engine
    from pagemill.fallback.folder import Foreign
    from pagemill.text.chat import ChatTemplate
    from pagemill.text.templates import TemplateSource
    from pagemill.text.tokenizer import Tokenizer
    from pagemill.weights.load import Checkpoint

WORKER = "pagemill.worker"

__all__ = [
    "LoadedModel",
    "ModelEntry",
    "Runtime",
    "build_engine",
    "counting",
    "given_template",
    "open_as_asked",
    "plan_for",
]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory: text on this side, the engine's door on the other."""

    name: str
    card: ModelCard
    plan: EnginePlan
    tokenizer: Tokenizer
    template: ChatTemplate
    defaults: GenerationDefaults
    client: ProcessClient
    created: int  # Unix time
    pair_template: str = ""  # of a reranker that answers in words


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model that may be asked for."""

    name: str
    created: int
    max_model_len: int | None  # None until it is loaded
    loaded: bool
    pooling: str | None = None  # as its card has it; None until it is loaded


def build_engine(plan: EnginePlan) -> Engine:
    """An engine in this process, for offline runs; see `engine.local.LocalClient`."""
    from pagemill.worker import build

    return build(plan)[0]


def plan_for(config: EngineConfig, checkpoint: Checkpoint | Foreign, model_path: str) -> EnginePlan:
    """The plan of a model on this machine. ConfigError names what cannot be honoured."""
    config = with_backend(config, checkpoint.card)
    footprint = footprint_of(
        checkpoint, config.backend, config.kv_cache_dtype, config.dtype, config.device
    )
    return resolve_plan(config, checkpoint.card, this_machine(), model_path, footprint)


def given_template(config: TextConfig) -> TemplateSource | None:
    """The template that is set for all models. ConfigError if it cannot be read or is none."""
    if not config.chat_template:
        return None  # and no libraries are loaded
    from pagemill.text.templates import template_of_setting

    return template_of_setting(config.chat_template)


def counting(config: TextConfig, defaults: GenerationDefaults) -> GenerationDefaults:
    """What counts of a model's defaults; the ids that end its answers always do."""
    if config.generation_config == "none":
        return GenerationDefaults(stop_ids=defaults.stop_ids)
    return defaults


@dataclass(frozen=True, slots=True)
class _Opened:
    """A model whose header is read and whose engine has been told to load it."""

    card: ModelCard
    metadata: Mapping[str, Any]
    client: ProcessClient


@dataclass(frozen=True, slots=True)
class _Text:
    """A model's text side."""

    tokenizer: Tokenizer
    template: ChatTemplate
    defaults: GenerationDefaults
    pair_template: str


class _Hosted:
    """One served model and what has become of it."""

    def __init__(self, name: str, stored: StoredModel) -> None:
        self.name = name
        self.stored = stored
        self.opened: _Opened | None = None  # before its time, by `prestart`
        self.model: LoadedModel | None = None
        self.loading: asyncio.Task[LoadedModel] | None = None


class Runtime:
    """Names to models. Use it on one event loop."""

    def __init__(
        self, settings: Settings, names: Sequence[str] = (), *, worker: str = WORKER
    ) -> None:
        """Serve `names` (short names, repositories, files); none: whatever the store holds.

        ConfigError when two of them would be served under one name, or for a broken template.
        """
        self._engine_config = settings.engine
        if with_backend(settings.engine).backend == "reference" != settings.engine.backend:
            _log.warning("no native kernels here, so models run slowly: `pagemill doctor` says why")
        self._text_config = settings.text
        self._template = given_template(settings.text)
        self._store = Store(settings.hub.home)
        self._given = tuple(names)
        self._worker = worker
        self._by_name: dict[str, _Hosted] = {}  # by served name
        self._by_spelling: dict[str, _Hosted] = {}  # by every spelling that was asked for
        self._closed = False
        if self._given:
            self._served()

    def prestart(self) -> tuple[ModelCard, EnginePlan]:
        """Begin to load the first of the given names; reads its header, waits for nothing else.

        Needs no event loop. Call it once, before anything slow is imported or read, on a thread
        that stays (see `EngineProcess`). Raises what `model` would.
        """
        process = self._spawn()  # it loads its libraries while we look the name up
        try:
            hosted = self._look_up(self._given[0])
            assert hosted.opened is None and hosted.loading is None
            hosted.opened = self._open(hosted, process)
        except BaseException:
            process.discard()
            raise
        return hosted.opened.card, hosted.opened.client.plan

    async def model(self, name: str) -> LoadedModel:
        """The model of that name, loaded on first use; all who wait share one load.

        Raises UnknownModel, listing the choices, Unavailable when it was stopped meanwhile, and
        what prevented the load; the next call tries again.
        """
        hosted = self._by_spelling.get(name)
        if hosted is not None and hosted.model is not None:
            return hosted.model
        if self._closed:
            raise Unavailable("the server is shutting down", retry_after=30)
        hosted = hosted or self._look_up(name)
        if hosted.loading is None:
            hosted.loading = asyncio.create_task(self._load(hosted), name=f"load {hosted.name}")
            hosted.loading.add_done_callback(_retrieve)
        try:
            return await asyncio.shield(hosted.loading)  # who leaves does not take it from others
        except asyncio.CancelledError:
            if hosted.loading.cancelled():
                raise Unavailable(f"{hosted.name} was stopped while it was loading") from None
            raise

    def names(self) -> list[ModelEntry]:
        """Everything that may be asked for, loaded or not."""
        entries = []
        for name, stored in self._served().items():
            hosted = self._by_name.get(name)
            model = hosted.model if hosted else None
            created = int(stored.modified)
            if model is None:
                entries.append(ModelEntry(name, created, None, False))
            else:
                limit, pooling = model.plan.max_model_len, model.card.pooling
                entries.append(ModelEntry(name, created, limit, True, pooling))
        return entries

    def loaded(self) -> list[LoadedModel]:
        """What is in memory."""
        return [hosted.model for hosted in self._by_name.values() if hosted.model is not None]

    async def unload(self, name: str) -> None:
        """Give a model's memory back; its requests end. The next use loads it again."""
        hosted = self._by_spelling.get(name)
        if hosted is not None:
            await self._release(hosted)

    async def close(self, drain_s: float = 0) -> None:
        """Let answers finish for up to `drain_s` seconds, then end every engine. Idempotent."""
        self._closed = True
        if drain_s > 0:
            await asyncio.gather(*(model.client.drain(drain_s) for model in self.loaded()))
        await asyncio.gather(*(self._release(hosted) for hosted in list(self._by_name.values())))

    # From a name to what is hosted.

    def _served(self) -> dict[str, StoredModel]:
        """Served models by the name that clients use."""
        if not self._given:
            return {str(stored.name): stored for stored in self._store.list()}
        served: dict[str, StoredModel] = {}
        for given in self._given:
            stored = resolve(given, self._store)
            if stored is not None:
                name = _served_name(given, stored)
                if name in served and served[name] != stored:
                    raise ConfigError(f"two of the models to serve would be named {name!r}")
                served[name] = stored
        return served

    def _look_up(self, name: str) -> _Hosted:
        if name not in self._by_spelling:
            self._by_spelling[name] = self._find(name)
        return self._by_spelling[name]

    def _find(self, name: str) -> _Hosted:
        served = self._served()
        if name in self._given:  # files may be asked for as the command line named them
            stored = resolve(name, self._store)
            found = None if stored is None else _served_name(name, stored)
        elif name in served:
            found = name
        else:
            found = self._other_spelling(name, served)
        if found is None:
            shown = ascii(name[:80])
            choices = ", ".join(served) or "none; `pagemill pull` fetches models"
            raise UnknownModel(f"model {shown} is not here; there are: {choices}", param="model")
        if found not in self._by_name:
            self._by_name[found] = _Hosted(found, served[found])
        return self._by_name[found]

    def _other_spelling(self, name: str, served: Mapping[str, StoredModel]) -> str | None:
        """The served name of the model that `name` means too. Names no files: it is a client's."""
        try:
            meant = resolve(name, self._store, allow_files=False)
        except InvalidRequest:
            return None  # what is no name names no model
        return next((known for known, stored in served.items() if stored == meant), None)

    # From what is hosted to a model in memory.

    def _spawn(self) -> EngineProcess:
        config = with_backend(self._engine_config)
        # The native kernels bring their own threads; only the reference computes with BLAS.
        blas = max(1, (config.threads or this_machine().cores) // config.ranks)
        return EngineProcess(self._worker, blas if config.backend == "reference" else 1)

    def _open(self, hosted: _Hosted, process: EngineProcess) -> _Opened:
        """Read, plan, and tell the process. Blocking."""
        path = str(hosted.stored.path)
        checkpoint = open_as_asked(self._engine_config, path)
        card, metadata = checkpoint.card, checkpoint.metadata
        plan = plan_for(self._engine_config, checkpoint, path)
        client = ProcessClient(plan, self._spawn, process=process)
        client.begin()
        return _Opened(card, metadata, client)

    async def _load(self, hosted: _Hosted) -> LoadedModel:
        opened, hosted.opened = hosted.opened, None
        process = self._spawn() if opened is None else None
        try:
            if process is not None:
                opened = await asyncio.to_thread(self._open, hosted, process)
            assert opened is not None
            _, text = await asyncio.gather(
                opened.client.ready(), asyncio.to_thread(self._read_text, hosted, opened)
            )
        except BaseException:  # also when it is cancelled: no process may be left
            self._forget(hosted)
            if opened is not None:
                await opened.client.close()
            elif process is not None:
                process.discard()
            raise
        hosted.model = LoadedModel(
            name=hosted.name,
            card=opened.card,
            plan=opened.client.plan,
            tokenizer=text.tokenizer,
            template=text.template,
            defaults=text.defaults,
            client=opened.client,
            created=int(hosted.stored.modified),
            pair_template=text.pair_template,
        )
        return hosted.model

    def _read_text(self, hosted: _Hosted, opened: _Opened) -> _Text:
        """Blocking."""
        from pagemill.text.chat import fallback_template
        from pagemill.text.model_text import read_model_text
        from pagemill.text.pairs import pair_template
        from pagemill.text.tokenizer import Tokenizer

        path = hosted.stored.path
        if path.is_dir():
            tokenizer = Tokenizer.from_folder(path)
        else:
            tokenizer = Tokenizer.from_gguf(opened.metadata)
        brought = read_model_text(path, opened.metadata, tokenizer.vocab_size)
        source = self._template or brought.template
        template = source.compile(brought.tokens) if source else fallback_template(tokenizer)
        template.opening = brought.opening
        if source is None and not opened.card.pooling:
            _log.warning("%s brings no chat template; --chat-template sets one", hosted.name)
        pairs = pair_template(opened.metadata)
        return _Text(tokenizer, template, counting(self._text_config, brought.defaults), pairs)

    async def _release(self, hosted: _Hosted) -> None:
        self._forget(hosted)
        if hosted.loading is not None:
            hosted.loading.cancel()
            await asyncio.wait({hosted.loading})
        if hosted.opened is not None:
            await hosted.opened.client.close()
        if hosted.model is not None:
            await hosted.model.client.close()

    def _forget(self, hosted: _Hosted) -> None:
        """Let the next use look the name up again: its file may be another by then."""
        if self._by_name.get(hosted.name) is hosted:
            del self._by_name[hosted.name]
        for name in [name for name, other in self._by_spelling.items() if other is hosted]:
            del self._by_spelling[name]


def _served_name(given: str, stored: StoredModel) -> str:
    """What clients call a model: as the command line did, but no paths of ours."""
    return stored.path.name.removesuffix(".gguf") if stored.name.kind == "file" else given


def open_as_asked(config: EngineConfig, path: str | Path) -> Checkpoint | Foreign:
    """A model with its weights in the precision that the settings ask for; one whose network we do
    not have, for transformers, where that is installed."""
    # Imported here: numpy is not needed before a model is.
    from pagemill import models
    from pagemill.fallback.choice import open_any
    from pagemill.weights.precision import Precision

    return open_any(path, models, Precision(config.dtype, config.quantization), config.backend)


def _retrieve(loading: asyncio.Task[LoadedModel]) -> None:
    """Look at the outcome: everyone who waited for it may have gone."""
    if not loading.cancelled() and (error := loading.exception()) is not None:
        _log.info("%s failed: %s", loading.get_name(), error)
