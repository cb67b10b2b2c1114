"""Activations of gates times what they let through, in one pass.

Torch does it in two launches and writes the activation to memory between them: of n numbers of two
bytes, 10n bytes move, here 6n. An activation alone is one call of torch already.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from pagemill.ops.triton.variants import Variant

_BLOCK = 2048
_KINDS = ("silu", "gelu", "gelu_tanh", "relu", "tanh", "clamped_silu", "sigmoid")


def act_mul(gate_up: Tensor, kind: str) -> Tensor:
    """(T, 2F) -> (T, F): activation of the first half times the second half."""
    half = gate_up.shape[-1] // 2
    return gated(gate_up[..., half:], gate_up[..., :half], kind)


def gated(x: Tensor, gate: Tensor, kind: str) -> Tensor:
    """Activation of `gate` times x, of one shape; a gate (T, 1) is for all of its row. Kinds are
    the contract's activations, and "sigmoid"."""
    if kind not in _KINDS:
        raise ValueError(f"activation {kind!r}; there are {', '.join(_KINDS)}")
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    x, gate = _rows(x), _rows(gate)
    (num_rows, n), broad = x.shape, gate.shape[1] == 1
    if x.numel():
        _gate_kernel[num_rows, triton.cdiv(n, _BLOCK)](
            x, gate, out, n, x.stride(0), gate.stride(0),
            KIND=kind, BROAD=broad, BLOCK=min(_BLOCK, triton.next_power_of_2(n)), num_warps=4,
        )  # fmt: skip
    return out


def sigmoid_mul(x: Tensor, gate: Tensor) -> Tensor:
    """x (T, N) times sigmoid(gate), gate (T, N) or (T, 1)."""
    return gated(x, gate, "sigmoid")


def _rows(x: Tensor) -> Tensor:
    """x as rows whose numbers lie next to each other."""
    x = x.reshape(-1, x.shape[-1])
    return x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()


@triton.jit
def _gate_kernel(
    x, gate, out, n, x_row, gate_row,
    KIND: tl.constexpr, BROAD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < n
    value = tl.load(x + row * x_row + column, inside, 0.0).to(tl.float32)
    if BROAD:
        g = tl.load(gate + row * gate_row).to(tl.float32)
    else:
        g = tl.load(gate + row * gate_row + column, inside, 0.0).to(tl.float32)
    if KIND == "clamped_silu":
        g = tl.minimum(g, 7.0)
        y = g * tl.sigmoid(1.702 * g) * (tl.minimum(tl.maximum(value, -7.0), 7.0) + 1)
    else:
        y = activation(g, KIND) * value
    tl.store(out + row * n + column, y.to(out.dtype.element_ty), inside)


@triton.jit
def activation(x, KIND: tl.constexpr):
    """Of float32. tanh(x) is 2 sigmoid(2x) - 1; where exp overflows, sigmoid is 0, as it should."""
    if KIND == "silu":
        y = x * tl.sigmoid(x)
    elif KIND == "gelu":
        y = x * (0.5 + 0.5 * tl.erf(x * 0.7071067811865476))
    elif KIND == "gelu_tanh":
        y = x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    elif KIND == "relu":
        y = tl.maximum(x, 0.0)
    elif KIND == "tanh":
        y = 2 * tl.sigmoid(2 * x) - 1
    else:
        tl.static_assert(KIND == "sigmoid")
        y = tl.sigmoid(x)
    return y


def _variant(kind: str, *, broad: bool) -> Variant:
    types = dict.fromkeys(("x", "gate", "out"), "*bf16") | dict.fromkeys(("n", "x_row"), "i32:16")
    types["gate_row"] = "i32" if broad else "i32:16"
    name = f"{kind} of {'rows' if broad else 'numbers'}"
    constants = {"KIND": kind, "BROAD": broad, "BLOCK": _BLOCK}
    return Variant(name, _gate_kernel, types, constants)


VARIANTS = (
    _variant("silu", broad=False),
    _variant("gelu", broad=False),
    _variant("clamped_silu", broad=False),
    _variant("sigmoid", broad=True),
)
