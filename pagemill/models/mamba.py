"""Mamba-2 (Dao and Gu, 2024) as the mixer of a layer: in the place of attention it has a state of
fixed size for each sequence. Must not know: which network it is part of.

A layer's memory, `kv[index]`, is a pair of states: the last inputs of the convolution, and the
matrices of the recurrence.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pagemill.checkpoint import Keys, Setting, Take, WeightSource
from pagemill.errors import Unsupported
from pagemill.models.layers import Linear
from pagemill.ops.interface import Array, Ops, Step
from pagemill.types import ModelCard

_MOST_WIDTH = 1 << 20
_MOST_TAPS = 64


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of a mixer: heads of `head_dim`, groups of them that share the vectors of `state` numbers."""

    heads: int
    head_dim: int
    groups: int
    state: int
    taps: int

    @classmethod
    def read(cls, keys: Keys) -> "Sizes":
        """BadModelFile when they do not fit each other."""
        inner = keys.whole("ssm.inner_size", 1, _MOST_WIDTH)
        heads = keys.whole("ssm.time_step_rank", 1, inner)
        groups = keys.whole("ssm.group_count", 1, heads, 1)
        if inner % heads:
            raise keys.bad("ssm.time_step_rank", f"is {heads}, which does not divide {inner}")
        if heads % groups:
            raise keys.bad("ssm.group_count", f"is {groups}, which does not divide {heads} heads")
        state = keys.whole("ssm.state_size", 1, _MOST_WIDTH)
        return cls(
            heads, inner // heads, groups, state, keys.whole("ssm.conv_kernel", 1, _MOST_TAPS)
        )

    @property
    def inner(self) -> int:
        return self.heads * self.head_dim

    @property
    def channels(self) -> int:
        """Of the convolution: x, b and c side by side."""
        return self.inner + 2 * self.groups * self.state

    @property
    def of_states(self) -> tuple[int, int]:
        """Elements of a sequence's two states."""
        return self.channels * (self.taps - 1), self.inner * self.state


def new_states(ops: Ops, sizes: Sizes, layers: int, num_slots: int) -> list[tuple[Array, Array]]:
    """The states of layers that are mixers, for as many sequences."""
    conv, scan = (ops.new_state(layers, num_slots, size) for size in sizes.of_states)
    return [(conv[layer], scan[layer]) for layer in range(layers)]


class Mamba2:
    """A product that gives z, x, b, c and dt; a short convolution of x, b and c; the recurrence; a
    norm, gated by z; a product."""

    def __init__(self, card: ModelCard, ops: Ops, source: WeightSource, index: int) -> None:
        self.ops, self.index, self.eps = ops, index, card.norm_eps
        self.sizes = s = Sizes.read(source.keys)
        at, hidden = f"blk.{index}", card.hidden_size
        parts = (s.inner, s.groups * s.state, s.groups * s.state)  # x, b and c
        self.input = Linear(ops, source, (f"{at}.ssm_in", (s.inner, *parts, s.heads)), k=hidden)
        taps = tuple(part * s.taps for part in parts)
        self.conv = ops.vector(source.vector((f"{at}.ssm_conv1d", taps)))
        self.conv_bias = None
        if source.has(f"{at}.ssm_conv1d.bias"):
            self.conv_bias = ops.vector(source.vector((f"{at}.ssm_conv1d.bias", parts)))
        self.dt_bias = ops.vector(source.vector((f"{at}.ssm_dt.bias", s.heads)))
        self.a = ops.vector(source.vector((f"{at}.ssm_a", s.heads)))
        self.d = ops.vector(source.vector((f"{at}.ssm_d", s.heads)))
        self.norm = ops.vector(source.vector((f"{at}.ssm_norm", s.inner)))
        self.output = Linear(ops, source, (f"{at}.ssm_out", hidden), k=s.inner)

    def __call__(self, x: Array, step: Step, kv: Array) -> Array:
        ops, s, num_tokens = self.ops, self.sizes, x.shape[0]
        conv_state, scan_state = kv[self.index]
        zxbcdt = self.input(x)  # (T, inner + channels + heads)
        z, dt = zxbcdt[:, : s.inner], zxbcdt[:, s.inner + s.channels :]
        xbc = zxbcdt[:, s.inner : s.inner + s.channels]
        xbc = ops.act(ops.short_conv(xbc, self.conv, self.conv_bias, conv_state, step), "silu")
        b_end = s.inner + s.groups * s.state
        y = ops.mamba2(
            xbc[:, : s.inner].reshape(num_tokens, s.heads, s.head_dim),
            ops.bias(dt, self.dt_bias),
            xbc[:, s.inner : b_end].reshape(num_tokens, s.groups, s.state),
            xbc[:, b_end:].reshape(num_tokens, s.groups, s.state),
            self.a,
            self.d,
            scan_state,
            step,
        )
        y = ops.gated(y.reshape(num_tokens, s.inner), z, "silu")
        y = y.reshape(num_tokens, s.groups, s.inner // s.groups)
        y = ops.rms_norm_all(y, self.norm, self.eps)
        return ops.all_reduce(self.output(y.reshape(num_tokens, s.inner)))


def _unlimited(config: Mapping[str, Any]) -> None:
    low, high = config.get("time_step_limit") or (0.0, math.inf)
    high = float(high["__float__"] if isinstance(high, dict) else high)
    if low > 0 or high < math.inf:
        raise Unsupported(
            f"config.json: time_step_limit: {low} to {high} cannot be run, only 0 to infinity"
        )


SETTINGS: Mapping[str, Setting] = {
    "ssm.inner_size": lambda config: config["mamba_expand"] * config["hidden_size"],
    "ssm.time_step_rank": "mamba_n_heads",
    "ssm.group_count": "mamba_n_groups",
    "ssm.state_size": "mamba_d_state",
    "ssm.conv_kernel": "mamba_d_conv",
    "ssm.time_step_limit": _unlimited,
}


def negative_exp(a_log: Array, keys: Keys) -> Array:
    return -(math.e ** a_log.astype("float64")).astype("float32")


def tensors(at: str) -> Mapping[str, str | Take]:
    """A mixer's, which safetensors files have under `at`."""
    return {
        "blk.{}.ssm_in.weight": f"{at}.in_proj.weight",
        "blk.{}.ssm_in.bias": f"{at}.in_proj.bias",
        "blk.{}.ssm_conv1d.weight": f"{at}.conv1d.weight",
        "blk.{}.ssm_conv1d.bias": f"{at}.conv1d.bias",
        "blk.{}.ssm_dt.bias": f"{at}.dt_bias",
        "blk.{}.ssm_a": Take(f"{at}.A_log", negative_exp),
        "blk.{}.ssm_d": f"{at}.D",
        "blk.{}.ssm_norm.weight": f"{at}.norm.weight",
        "blk.{}.ssm_out.weight": f"{at}.out_proj.weight",
        "blk.{}.ssm_out.bias": f"{at}.out_proj.bias",
    }
