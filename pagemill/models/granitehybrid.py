"""Granite 4 (IBM, 2025): Granite whose layers are most of them Mamba-2, and a few attention, mostly
without positions; with experts and a shared one, or with one dense feed-forward network."""

from collections.abc import Iterator, Mapping
from typing import Any

from pagemill.checkpoint import Family, Keys, WeightSource
from pagemill.errors import Unsupported
from pagemill.models import mamba
from pagemill.models.granite import SETTINGS, Granite, GraniteAttention, GraniteLayer
from pagemill.models.granitemoe import TENSORS
from pagemill.models.layers import GatedFeedForward
from pagemill.models.llama import gguf_neighbours
from pagemill.models.mamba import Mamba2, Sizes, new_states
from pagemill.models.moe import Mixture
from pagemill.ops.interface import Array, Ops, Rope
from pagemill.types import ModelCard

_MOST_WIDTH = 1 << 24


class GraniteHybridAttention(GraniteAttention):
    def rotation(self, card: ModelCard, source: WeightSource) -> Rope | None:
        rotates = source.keys.flag("rope.scaling.finetuned", True)  # as these files say it
        return super().rotation(card, source) if rotates else None


def feed_forward(
    card: ModelCard, ops: Ops, source: WeightSource, index: int
) -> GatedFeedForward | Mixture:
    """Files may call the only network of a dense layer its shared one."""
    if card.experts:
        return Mixture(card, ops, source, index)
    size = source.keys.whole("expert_shared_feed_forward_length", 1, _MOST_WIDTH, card.ffn_size)
    suffix = "_shexp" if source.has(f"blk.{index}.ffn_up_shexp") else ""
    return GatedFeedForward(card, ops, source, index, size, suffix)


def mixer(
    card: ModelCard, ops: Ops, source: WeightSource, index: int
) -> GraniteHybridAttention | Mamba2:
    kind = GraniteHybridAttention if attends(card, source.keys)[index] else Mamba2
    return kind(card, ops, source, index)


class GraniteHybridLayer(GraniteLayer):
    attention_type: Any = staticmethod(mixer)
    ffn_type = staticmethod(feed_forward)


class GraniteHybrid(Granite):
    layer_type = GraniteHybridLayer

    def __init__(self, card: ModelCard, ops: Ops, source: WeightSource) -> None:
        super().__init__(card, ops, source)
        kinds = attends(card, source.keys)
        self.attends = [kinds[index] for index in source.layers]
        self.sizes = None if all(self.attends) else Sizes.read(source.keys)

    def new_kv(self, num_pages: int, page_size: int, num_slots: int = 0) -> Array:
        """By layer: its pages, or its states."""
        card, ops, layers = self.card, self.ops, sum(self.attends)
        kv = ops.new_kv(layers, num_pages, page_size, card.kv_heads, card.head_dim)
        pages = iter([kv[layer] for layer in range(layers)])
        states: Iterator[Any] = iter(())
        if self.sizes is not None:
            layers = self.attends.count(False)
            states = iter(new_states(ops, self.sizes, layers, num_slots))
        return [next(pages if attends else states) for attends in self.attends]


def attends(card: ModelCard, keys: Keys) -> tuple[bool, ...]:
    """Of each layer, whether it is attention. Files give the others no heads for keys."""
    heads = keys.wholes("attention.head_count_kv", card.layers, 0, card.heads, card.heads)
    return tuple(count > 0 for count in heads)


def kv_elements(card: ModelCard, keys: Keys) -> int:
    return sum(attends(card, keys)) * 2 * card.kv_heads * card.head_dim


def state_elements(card: ModelCard, keys: Keys) -> int:
    layers = attends(card, keys).count(False)
    return layers * sum(Sizes.read(keys).of_states) if layers else 0


def _head_counts(config: Mapping[str, Any]) -> list[int]:
    count = config.get("num_key_value_heads") or config["num_attention_heads"]
    counts = {"attention": count, "full_attention": count, "mamba": 0, "linear_attention": 0}
    kinds = config["layer_types"]
    unknown = [kind for kind in kinds if kind not in counts]
    if unknown:
        raise Unsupported(
            f"config.json: layer_types: {ascii(unknown[0])[:64]} cannot be run; "
            f"supported: {', '.join(counts)}"
        )
    return [counts[kind] for kind in kinds]


def _rotates(config: Mapping[str, Any]) -> bool:
    return bool(config.get("position_embedding_type") == "rope")


MODEL = GraniteHybrid
FAMILIES = (
    Family(
        "granitehybrid",
        ("GraniteMoeHybridForCausalLM",),
        settings={
            **SETTINGS,
            **mamba.SETTINGS,
            "attention.head_count_kv": _head_counts,
            "expert_shared_feed_forward_length": "shared_intermediate_size",
            "rope.scaling.finetuned": _rotates,
        },
        tensors={**TENSORS, **mamba.tensors("model.layers.{}.mamba")},
        row_orders=gguf_neighbours,
        kv_elements=kv_elements,
        state_elements=state_elements,
    ),
)
