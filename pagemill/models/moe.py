"""Mixtures of experts as feed-forward networks: a router, experts, and sometimes a shared expert
that every token visits. Must not know: which network it is part of.
"""

from pagemill.checkpoint import Keys, Part, WeightSource
from pagemill.models.activations import read_activation
from pagemill.models.layers import GatedFeedForward, Linear
from pagemill.ops.interface import Array, Ops, Routing
from pagemill.types import ModelCard

_MOST_WIDTH = 1 << 24
_MOST_SCALE = 1e6


class Mixture:
    """Routed experts, and a shared one where the checkpoint has it.

    A relative overrides `normalize` (whether the weights of the chosen sum to 1, unless the
    checkpoint says), or `route`.
    """

    normalize = True

    def __init__(self, card: ModelCard, ops: Ops, source: WeightSource, index: int) -> None:
        self.ops = ops
        at, hidden, count = f"blk.{index}", card.hidden_size, card.experts
        size = expert_size(card, source.keys, index)
        self.routing = self.route(card, source.keys)
        self.router = Linear(ops, source, (f"{at}.ffn_gate_inp", count), k=hidden)
        gate_up: list[Part] = [(f"{at}.ffn_gate_exps", size), (f"{at}.ffn_up_exps", size)]
        down: Part = (f"{at}.ffn_down_exps", hidden)
        self.gate_up = [ops.upload(w) for w in source.experts(*gate_up, k=hidden, count=count)]
        self.down = [ops.upload(w) for w in source.experts(down, k=size, count=count)]
        self.gate_up_bias = self.biases(source, gate_up, count)
        self.down_bias = self.biases(source, [down], count)
        self.selection_bias = None
        if source.has(f"{at}.exp_probs_b.bias"):
            self.selection_bias = ops.vector(source.vector((f"{at}.exp_probs_b.bias", count)))
        self.shared = None
        if source.has(f"{at}.ffn_up_shexp"):
            shared_size = source.keys.whole(
                "expert_shared_feed_forward_length",
                1,
                _MOST_WIDTH,
                size * max(1, source.keys.whole("expert_shared_count", 0, 1 << 16, 1)),
            )
            self.shared = GatedFeedForward(card, ops, source, index, shared_size, "_shexp")
        self.shared_gate = None
        if source.has(f"{at}.ffn_gate_inp_shexp"):
            self.shared_gate = Linear(ops, source, (f"{at}.ffn_gate_inp_shexp", 1), k=hidden)

    def route(self, card: ModelCard, keys: Keys) -> Routing:
        if not 1 <= card.experts_used <= card.experts:
            raise keys.bad("expert_used_count", f"is {card.experts_used} of {card.experts} experts")
        return Routing(
            card.experts_used,
            activation=read_activation(keys, "hidden_activation", "silu"),
            normalize=keys.flag("expert_weights_norm", self.normalize),
            scale=keys.real("expert_weights_scale", _MOST_SCALE, 1.0),
        )

    def biases(self, source: WeightSource, parts: list[Part], count: int) -> list[Array] | None:
        """The biases of each expert's product, where the checkpoint has them."""
        if not source.has(f"{parts[0][0]}.bias"):
            return None
        named = [(f"{name}.bias", rows) for name, rows in parts]
        return [self.ops.vector(values) for values in source.expert_vectors(*named, count=count)]

    def __call__(self, x: Array) -> Array:
        y = self.ops.experts(
            x,
            self.router(x),
            self.routing,
            self.gate_up,
            self.down,
            selection_bias=self.selection_bias,
            gate_up_bias=self.gate_up_bias,
            down_bias=self.down_bias,
        )
        if self.shared is not None:
            z = self.shared.part(x)
            if self.shared_gate is not None:
                z = self.ops.sigmoid_mul(z, self.shared_gate(x))
            y = y + z
        return self.ops.all_reduce(y)


def expert_size(card: ModelCard, keys: Keys, index: int) -> int:
    """Inner width of an expert in a layer."""
    sizes = keys.wholes("expert_feed_forward_length", card.layers, 0, _MOST_WIDTH, card.ffn_size)
    return sizes[index]


def dense_or_mixture(
    card: ModelCard, ops: Ops, source: WeightSource, index: int
) -> GatedFeedForward | Mixture:
    """A layer's feed-forward network in checkpoints of which some have experts."""
    kind = Mixture if source.has(f"blk.{index}.ffn_gate_inp") else GatedFeedForward
    return kind(card, ops, source, index)
