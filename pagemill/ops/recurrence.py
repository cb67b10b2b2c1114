"""Operations of the reference backend that go along a sequence, token by token, and keep a state.

The order of a state's elements is the backend's own affair. Must not know: which model is running.
"""

from collections.abc import Iterator

import numpy as np

from pagemill.ops.interface import Float32, Step


class Recurrence:
    """These operations as a part of `ReferenceOps`."""

    def new_state(self, layers: int, slots: int, size: int) -> Float32:
        return np.zeros((layers, slots, size), np.float32)

    def short_conv(
        self, x: Float32, weight: Float32, bias: Float32 | None, state: Float32, step: Step
    ) -> Float32:
        channels = x.shape[1]
        taps = weight.reshape(channels, -1).T  # (W, C)
        out = np.empty_like(x)
        for tokens, before, after in _rows(state, step):
            inputs = np.concatenate([before.reshape(-1, channels), x[tokens]])
            y = np.zeros_like(x[tokens]) + (0 if bias is None else bias)
            for tap, of_channels in enumerate(taps):
                y = y + of_channels * inputs[tap : tap + len(y)]
            out[tokens] = y
            after[:] = inputs[len(y) :].reshape(-1)
        return out

    def mamba2(
        self,
        x: Float32,
        dt: Float32,
        b: Float32,
        c: Float32,
        a: Float32,
        d: Float32,
        state: Float32,
        step: Step,
    ) -> Float32:
        heads, dim = x.shape[1:]
        b, c = (np.repeat(part, heads // part.shape[1], axis=1) for part in (b, c))  # (T, H, N)
        out = np.empty_like(x)
        for tokens, before, after in _rows(state, step):
            s = before.reshape(heads, dim, -1)
            for t in range(tokens.start, tokens.stop):
                delta = np.logaddexp(np.float32(0), dt[t])
                s = np.exp(delta * a)[:, None, None] * s
                s = s + (delta[:, None] * x[t])[:, :, None] * b[t][:, None]
                out[t] = (s * c[t][:, None]).sum(axis=-1) + d[:, None] * x[t]
            after[:] = s.reshape(-1)
        return out


def _rows(state: Float32, step: Step) -> Iterator[tuple[slice, Float32, Float32]]:
    """Each row's tokens, the state before them, and where the state after them goes."""
    assert step.state_slots is not None, "this network keeps a state; the step has no state_slots"
    for row, (source, target) in enumerate(step.state_slots):
        tokens = slice(int(step.row_starts[row]), int(step.row_starts[row + 1]))
        before = np.zeros_like(state[target]) if source < 0 else state[source]
        yield tokens, before, state[target]
