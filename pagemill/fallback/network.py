"""A network of transformers as the engine runs it: `network(step, kv) -> logits`.

Made from checked settings and tensors; the library sees no folder, so it finds no code, no pickles
and no address to ask. Whatever it makes of them is tried on a few tokens (`trial`) before anybody
may use it.

Must not know: requests, the scheduler, how attention finds its pages.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from pagemill.errors import BadModelFile, Unsupported
from pagemill.fallback.attention import NAME_START, HeadShape, PagedAttention, Pages, Sees
from pagemill.fallback.folder import Foreign
from pagemill.ops.interface import Float32, Step
from pagemill.weights.cursor import show
from pagemill.weights.huggingface import IGNORED

# Settings that name code, or choose among implementations: the choice is ours.
_OURS = ("auto_map", "attn_implementation", "experts_implementation", "dtype", "torch_dtype")
_TORCH_DTYPES = MappingProxyType(
    {
        **{"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
        **{"BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8},
        **{"I16": torch.int16, "I32": torch.int32, "I64": torch.int64},
    }
)


class Network:
    """A network with its weights. Runs on one thread at a time, on as many as torch is set to."""

    def __init__(self, foreign: Foreign) -> None:
        """Build and load. Unsupported says what the fallback cannot run, and why; BadModelFile what
        is missing from the folder."""
        self.name = f"{foreign.folder.name}: {foreign.class_name}"
        self.dtype = getattr(torch, foreign.dtype)
        self.attention = PagedAttention()
        self.module = _load(foreign, self.dtype, self.attention.name)
        self._takes_rows = "logits_to_keep" in inspect.signature(self.module.forward).parameters
        self._check_sizes(foreign)
        self._shapes = self._measure(foreign)

    def __call__(self, step: Step, kv: Pages) -> Float32:
        """(S, V) logits of the sampled rows."""
        rows = torch.from_numpy(step.out_rows).long()

        def forward() -> Tensor:
            return self._forward(step.token_ids, step.positions, rows)

        logits = self.attention.run(step, kv, forward)
        result: Float32 = logits.float().numpy()
        return result

    def new_kv(self, num_pages: int, page_size: int) -> Pages:
        """Pages for its keys and values, zeroed."""
        return Pages(self._shapes, num_pages, page_size, self.dtype)

    def plain(self, ids: list[int]) -> Float32:
        """(T, V) logits of one text as transformers computes them without us."""
        self.module.set_attn_implementation("eager")
        try:
            with torch.inference_mode():
                logits: Tensor = self.module(input_ids=torch.tensor([ids]), use_cache=False).logits
        finally:
            self.module.set_attn_implementation(self.attention.name)
        result: Float32 = logits[0].float().numpy()
        return result

    def _forward(self, ids: Any, positions: Any, rows: Tensor) -> Tensor:
        batch = {
            "input_ids": torch.from_numpy(ids).long()[None],
            "position_ids": torch.from_numpy(positions).long()[None],
            # Without a mask the library would look for texts side by side, and take ours apart.
            "attention_mask": torch.ones((1, len(ids)), dtype=torch.long),
        }
        with torch.inference_mode():
            if self._takes_rows:
                logits: Tensor = self.module(**batch, use_cache=False, logits_to_keep=rows).logits
                return logits[0]
            logits = self.module(**batch, use_cache=False).logits
            return logits[0, rows]

    def _check_sizes(self, foreign: Foreign) -> None:
        """Every id that the engine lets through must have a row."""
        rows = len(self.module.get_input_embeddings().weight)
        if rows < foreign.card.vocab_size:
            raise BadModelFile(
                f"{self.name}: vocab_size is {foreign.card.vocab_size}, the embedding has "
                f"{rows} rows"
            )

    def _measure(self, foreign: Foreign) -> Mapping[Any, HeadShape]:
        """What each layer keeps, compared with what was planned for."""
        ids, rows = np.zeros(2, np.int64), torch.tensor([1])
        with explained(self.name):
            shapes = self.attention.measure(lambda: self._forward(ids, np.arange(2), rows))
        if len(shapes) != foreign.card.layers:
            raise Unsupported(
                f"{self.name}: {len(shapes)} of {foreign.card.layers} layers attend through "
                "transformers' attention interface; the fallback needs all of them"
            )
        elements = sum(shape.elements for shape in shapes.values())
        if elements != foreign.card.kv_elements:
            raise Unsupported(
                f"{self.name} keeps {elements} numbers of each token, where config.json speaks of "
                f"{foreign.card.kv_elements}; the transformers fallback plans with the latter"
            )
        return shapes


@contextmanager
def explained(name: str, what: str = "cannot run on pages") -> Iterator[None]:
    """A boundary: whatever goes wrong in a network's own code becomes one Unsupported."""
    try:
        yield
    except BadModelFile:
        raise
    except Unsupported as error:
        raise Unsupported(f"{name} {what}: {error.message}") from error
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:
        said = (str(error).splitlines() or [""])[0][:200]
        reason = f"transformers says {type(error).__name__}: {said}"
        if NAME_START in said or Sees.__name__ in said:  # it is surprised by what is ours
            reason = "its attention does not go through transformers' attention interface"
        raise Unsupported(f"{name} {what}: {reason}") from error


def _load(foreign: Foreign, dtype: Any, attention: str) -> Any:
    """The library's module with all of the folder's weights, and no others."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    name = f"{foreign.folder.name}: {foreign.class_name}"
    network = _class(foreign)
    if getattr(network, "_is_stateful", False):
        raise Unsupported(f"{name} carries a state from token to token, which has no pages")
    if "position_ids" not in inspect.signature(network.forward).parameters:
        raise Unsupported(
            f"{name} takes no positions from outside, so the transformers fallback cannot put "
            "several texts into one step"
        )
    config = _config(foreign, name)
    with explained(name, "cannot be loaded"):
        _check_amount(network, config, foreign, name)
        module, info = network.from_pretrained(
            None,
            config=config,
            state_dict=_tensors(foreign),
            dtype=dtype,
            attn_implementation=attention,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are reported, by name
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
    for key, what in (
        ("missing_keys", "is missing"),
        ("mismatched_keys", "has another shape than config.json says"),
        ("unexpected_keys", "has no place in this network"),
    ):
        if info.get(key):
            # With the name of a mismatched one come its shapes.
            tensors = sorted(one if isinstance(one, str) else str(one[0]) for one in info[key])
            more = f" and {len(tensors) - 1} more" if len(tensors) > 1 else ""
            raise BadModelFile(f"{name}: tensor {show(tensors[0])}{more} {what}")
    return module.eval()


def _check_amount(network: Any, config: Any, foreign: Foreign, name: str) -> None:
    """Refuse what config.json describes and the files do not have, before memory is taken for it:
    the library would make up what is missing, however much."""
    with torch.device("meta"):
        outline = network(config)
    outline.tie_weights()
    wanted = sum(weight.numel() for weight in outline.parameters())
    if wanted > foreign.card.parameters:
        raise BadModelFile(
            f"{name}: config.json describes {wanted} weights, the files have "
            f"{foreign.card.parameters}"
        )


def _class(foreign: Foreign) -> Any:
    """The network's class: one of the library's own that writes text and goes with `model_type`."""
    kind, version = foreign.card.architecture, transformers.__version__
    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind, ())
    if foreign.class_name not in ((known,) if isinstance(known, str) else known):
        code = (
            "; the folder brings code of its own, which is never run"
            if "auto_map" in foreign.folder.config
            else ""
        )
        raise Unsupported(
            f"{foreign.folder.name}: architecture {show(foreign.class_name)} (model_type "
            f"{show(kind)}) is none that transformers {version} writes text with{code}"
        )
    return getattr(transformers, foreign.class_name)


def _config(foreign: Foreign, name: str) -> Any:
    """The library's settings, of what config.json says of the network."""
    said = {
        key: value
        for key, value in foreign.folder.config.items()
        if key not in _OURS and not key.startswith("_")
    }
    try:
        return CONFIG_MAPPING[foreign.card.architecture].from_dict(said)
    except Exception as error:  # a boundary: every class has its own checks, and ways to fail
        reason = (str(error).splitlines() or [""])[0][:200]
        raise BadModelFile(f"{name}: config.json: {type(error).__name__}: {reason}") from error


def _tensors(foreign: Foreign) -> dict[str, Tensor]:
    """The folder's tensors, as views of its mapped files."""
    tensors = {}
    for name, stored in foreign.folder.tensors.items():
        if name.endswith(IGNORED):
            continue
        dtype = _TORCH_DTYPES[stored.dtype]
        data = foreign.folder.data(name)
        if data.ctypes.data % dtype.itemsize:
            data = data.copy()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # views are not writable, and nobody writes
            tensors[name] = torch.from_numpy(data).view(dtype).reshape(stored.shape)
    return tensors
