"""Operations that go along a sequence and keep a state, on torch's own calls, in float32.

Must not know: which network is running.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pagemill.ops.plain.step import DeviceStep


def short_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, step: DeviceStep
) -> Tensor:
    """As `Ops.short_conv`: every tap reads a token of its row, or what the state has of before."""
    channels = x.shape[1]
    taps = weight.view(channels, -1).T  # (W, C)
    back = len(taps) - 1
    before, target = _states(state, step)
    # All that can be read, as rows of C numbers: first each row's state, then the tokens.
    inputs = torch.cat([before.view(-1, channels), x.float()])
    starts = step.row_starts.long()
    at = torch.arange(len(x), device=x.device)
    row = torch.searchsorted(starts[1:], at, right=True)

    def read(row: Tensor, column: Tensor) -> Tensor:
        """Of rows, the tokens of these columns; those below 0 were there before."""
        known = row * back + back + column
        token = len(before) * back + starts[row] + column
        return inputs[torch.where(column < 0, known, token)]

    y = torch.zeros((len(x), channels), device=x.device)
    if bias is not None:
        y = y + bias
    for tap, of_channels in enumerate(taps):
        y = y + of_channels * read(row, at - starts[row] - back + tap)
    rows = torch.arange(len(before), device=x.device)[:, None]
    takes = (starts[1:] - starts[:-1])[:, None]
    kept = read(rows, takes - back + torch.arange(back, device=x.device))  # (R, W - 1, C)
    state[target] = kept.flatten(1)
    return y.to(x.dtype)


def mamba2(
    x: Tensor,
    dt: Tensor,
    b: Tensor,
    c: Tensor,
    a: Tensor,
    d: Tensor,
    state: Tensor,
    step: DeviceStep,
) -> Tensor:
    """As `Ops.mamba2`. Rows that bring equally many tokens go together, token after token."""
    heads, dim = x.shape[1:]
    delta = functional.softplus(dt.float(), threshold=30.0)
    inner = x.float()
    b, c = (part.float().repeat_interleave(heads // part.shape[1], dim=1) for part in (b, c))
    before, target = _states(state, step)
    decay, inputs = torch.exp(delta * a), delta[..., None] * inner
    out = torch.empty_like(inner)
    after = torch.empty_like(before)
    for group in step.groups:
        if group.start:  # its tokens were gone through with its first part
            continue
        s = before[group.rows].view(len(group.rows), heads, dim, -1)
        tokens = group.whole()
        for column in range(group.take):
            t = tokens[:, column]
            s = decay[t][..., None, None] * s + inputs[t][..., None] * b[t][:, :, None]
            out[t] = (s * c[t][:, :, None]).sum(dim=-1)
        after[group.rows] = s.flatten(1)
    state[target] = after
    return (out + d[:, None] * inner).to(x.dtype)


def _states(state: Tensor, step: DeviceStep) -> tuple[Tensor, Tensor]:
    """The rows' states before this step (R, size), and the slots they go to."""
    assert step.state_slots is not None, "this network keeps a state; the step has no state_slots"
    source, target = step.state_slots.unbind(dim=1)
    new = (source < 0)[:, None]
    return state[source].masked_fill(new, 0), target
