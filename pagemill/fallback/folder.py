"""A folder of safetensors as the fallback sees it: sizes from config.json, weights from headers.

What is known to go wrong is refused here, by name, from config.json alone. `network` compares the
sizes with those that the network turns out to have. Needs no library of the fallback's.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from pagemill.errors import BadModelFile, Unsupported
from pagemill.types import Footprint, KeptWeights, ModelCard
from pagemill.weights import translate
from pagemill.weights.cursor import show
from pagemill.weights.folder import Folder
from pagemill.weights.keys import ConfigKeys

LIBRARY: Final = "transformers"
# Of a format of safetensors files: what torch and our settings call it, and its bytes.
FLOATS: Final = MappingProxyType(
    {"F32": ("float32", 4), "F16": ("float16", 2), "BF16": ("bfloat16", 2)}
)
_WHOLES = ("BOOL", "U8", "I8", "I16", "I32", "I64")  # buffers of old checkpoints
_MOST_LAYERS, _MOST_HEADS, _MOST_WIDTH = 1 << 12, 1 << 16, 1 << 24
LIBRARY_BYTES: Final = 400 << 20  # torch and transformers, loaded; measured

# Our word for a size -> what config.json may call it.
_SIZES: Final = MappingProxyType(
    {
        "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
        "hidden": ("hidden_size", "n_embd", "d_model", "n_embed"),
        "ffn": ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size"),
        "heads": ("num_attention_heads", "n_head", "n_heads"),
        "kv_heads": ("num_key_value_heads", "num_kv_heads", "n_head_kv"),
        "head_dim": ("head_dim",),
        "context": (
            *("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"),
            *("max_sequence_length", "seq_length"),
        ),
        "vocabulary": ("vocab_size",),
        "experts": ("num_experts", "num_local_experts", "n_routed_experts"),
        "experts_used": ("num_experts_per_tok",),
    }
)
# Settings of networks that remember more of a text than keys and values of each token.
_MEMORIES: Final = MappingProxyType(
    {
        "is_encoder_decoder": "an encoder and a decoder",
        "add_cross_attention": "attention to the states of an encoder",
        "kv_lora_rank": "compressed keys and values, which all heads share",
        "index_topk": "an index of its own that chooses the tokens to see",
    }
)
_LAYER_KINDS = ("full_attention", "sliding_attention", "chunked_attention")
_MOVING_ROPES = ("dynamic", "longrope")


@dataclass(frozen=True, slots=True)
class Foreign:
    """An open folder whose network transformers computes."""

    card: ModelCard
    metadata: Mapping[str, Any]
    folder: Folder
    class_name: str  # of the network: "StableLmForCausalLM"
    dtype: str  # weights, keys and values are kept in it: "bfloat16"

    @classmethod
    def open(cls, path: Path, dtype: str = "auto") -> "Foreign":
        """Read config.json and the headers of all tensors. `dtype` "auto": as most are stored.
        Unsupported names what the fallback cannot do, BadModelFile what is missing or wrong."""
        folder = Folder.open(path)
        config = _text_config(folder.config)
        name = translate.class_name(folder)
        _refuse(config, f"{folder.name}: {show(name)}")
        stored = _stored_format(folder)
        keys = ConfigKeys(config, f"{folder.name}: config.json", MappingProxyType({}))
        card = _card(keys, folder, stored)
        metadata: dict[str, Any] = {
            "general.architecture": card.architecture,
            "general.name": card.name,
        }
        for key, value in config.items():
            if isinstance(value, str | int | float):
                metadata[f"{card.architecture}.{key}"] = value
        dtype = FLOATS[stored][0] if dtype == "auto" else dtype
        return cls(card, MappingProxyType(metadata), folder, name, dtype)

    @property
    def element_size(self) -> int:
        """Bytes of a weight, key or value."""
        return dict(FLOATS.values())[self.dtype]

    def footprint(self) -> Footprint:
        """What it takes in memory. Weights and cache are counted; what torch allocates during a
        step is estimated as a plain transformer whose results are freed layer by layer."""
        card, size = self.card, self.element_size
        kept_as = next(name for name, (dtype, _) in FLOATS.items() if dtype == self.dtype)
        heads = (2 * card.heads + 2 * card.kv_heads) * card.head_dim
        kept = KeptWeights(card.quantization, kept_as, card.weights_bytes, card.parameters * size)
        return Footprint(
            weights=(kept,),
            vector_bytes=0,
            kv_token_bytes=card.kv_elements * size,
            state_bytes=0,
            token_bytes=size * (6 * card.hidden_size + 3 * card.ffn_size + 2 * heads),
            sampled_bytes=(4 + 2 * size) * card.vocab_size,
            thread_bytes=4 * card.vocab_size + (1 << 20),
            text_token_bytes=card.kv_elements * size // card.layers,  # of a layer, side by side
            position_bytes=0,
            exact=False,
            process_bytes=LIBRARY_BYTES,
        )


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """config.json; of a model that does more than text, with what it says of that part."""
    text = config.get("text_config")
    return {**config, **text} if isinstance(text, dict) else config


def _refuse(config: Mapping[str, Any], what: str) -> None:
    """Unsupported for what pages of keys and values cannot hold, or what a batch would change."""
    for key, memory in _MEMORIES.items():
        if config.get(key):
            raise Unsupported(
                f"{what} has {memory} (config.json: {key}), which the transformers fallback "
                "has no pages for"
            )
    kinds = config.get("layer_types")
    for kind in kinds if isinstance(kinds, list) else ():
        if kind not in _LAYER_KINDS:
            raise Unsupported(
                f"{what} has layers of the kind {show(str(kind))}; the transformers fallback has "
                f"pages for {', '.join(_LAYER_KINDS)}"
            )
    for key in ("rope_parameters", "rope_scaling"):
        for kind in _rope_types(config.get(key)):
            if kind in _MOVING_ROPES:
                raise Unsupported(
                    f"{what} has rotary angles of the kind {show(kind)}: they change with the "
                    "longest text of a batch, so the transformers fallback does not take it"
                )
    quantized = config.get("quantization_config")
    if quantized:
        method = quantized.get("quant_method") if isinstance(quantized, dict) else quantized
        raise Unsupported(
            f"{what} is quantized ({show(str(method))}); the transformers fallback takes weights "
            "in full precision"
        )


def _rope_types(rope: Any) -> Iterator[str]:
    """Kinds of rotary angles; files whose layers differ have one for each kind of layer."""
    if isinstance(rope, dict):
        kinds = (rope.get("rope_type"), rope.get("type"))
        yield from (kind for kind in kinds if isinstance(kind, str))
        for part in rope.values():
            yield from _rope_types(part)


def _stored_format(folder: Folder) -> str:
    """The format of most weights. Unsupported names a tensor that cannot be taken."""
    sizes = Counter[str]()
    for tensor in folder.tensors.values():
        if tensor.dtype in FLOATS:
            sizes[tensor.dtype] += tensor.nbytes
        elif tensor.dtype not in _WHOLES:
            raise Unsupported(
                f"{folder.name}: tensor {show(tensor.name)} is {tensor.dtype}; the transformers "
                f"fallback takes {', '.join(FLOATS)}"
            )
    if not sizes:
        raise BadModelFile(f"{folder.name}: no tensor holds fractions")
    return sizes.most_common(1)[0][0]


def _card(keys: ConfigKeys, folder: Folder, stored: str) -> ModelCard:
    layers = _size(keys, "layers", _MOST_LAYERS)
    hidden = _size(keys, "hidden", _MOST_WIDTH)
    heads = _size(keys, "heads", _MOST_HEADS)
    one_for_all = keys.flag("multi_query", False)
    kv_heads = _size(keys, "kv_heads", heads, 1 if one_for_all else heads)
    head_dim = _size(keys, "head_dim", _MOST_HEADS, max(1, hidden // heads))
    weights = [one for one in folder.tensors.values() if one.dtype in FLOATS]
    return ModelCard(
        name=folder.path.resolve().name,
        architecture=keys.text("model_type"),
        quantization=stored,
        parameters=sum(math.prod(tensor.shape) for tensor in weights),
        weights_bytes=sum(tensor.nbytes for tensor in weights),
        context_length=_size(keys, "context", _MOST_WIDTH),
        vocab_size=_size(keys, "vocabulary", _MOST_WIDTH),
        layers=layers,
        hidden_size=hidden,
        ffn_size=_size(keys, "ffn", _MOST_WIDTH, min(4 * hidden, _MOST_WIDTH)),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        rope_dim=0,
        rope_theta=0.0,
        norm_eps=0.0,
        tied_embeddings=keys.flag("tie_word_embeddings", False),
        experts=_size(keys, "experts", _MOST_HEADS, 0),
        experts_used=_size(keys, "experts_used", _MOST_HEADS, 0),
        kv_elements=layers * 2 * kv_heads * head_dim,
        through=LIBRARY,
    )


def _size(keys: ConfigKeys, what: str, most: int, default: int | None = None) -> int:
    """A size under whatever name it stands. Without `default` it must be there."""
    names = _SIZES[what]
    name = next((name for name in names if keys.has(name)), names[0])
    return keys.whole(name, 0 if default == 0 else 1, most, default)
