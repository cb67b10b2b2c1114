"""What layers add to, on the GPU backend: a sum that waits until somebody reads it.

Networks say `x = x + attention(norm(x))`, and the next that reads x is nearly always a norm. A norm
that adds on its way saves a launch and a pass over memory, so `+` only takes note, and whoever
comes first computes the sum: a norm, or anything else that touches it. Must not know: networks, and
how a norm is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor


class Residual:
    """A tensor, to which perhaps another one is still to be added."""

    __slots__ = ("_more", "_x")

    def __init__(self, x: Tensor, more: Tensor | None = None) -> None:
        self._x, self._more = x, more

    @property
    def shape(self) -> Any:
        return self._x.shape

    def __add__(self, more: Any) -> Residual:
        return Residual(self.whole(), whole(more))

    def __radd__(self, x: Tensor) -> Tensor:
        return x + self.whole()

    def __getitem__(self, key: Any) -> Tensor:
        return self.whole()[key]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole(), name)

    def whole(self) -> Tensor:
        """The sum."""
        if self._more is not None:
            self._x, self._more = self._x + self._more, None
        return self._x

    def normed(self, norm: Callable[..., Any]) -> Tensor:
        """See `normed`."""
        if self._more is None:
            return norm(self._x)
        y, self._x = norm(self._more, residual=self._x)
        self._more = None
        return y


def whole(x: Any) -> Any:
    """x, or the sum that it stands for."""
    return x.whole() if isinstance(x, Residual) else x


def normed(x: Tensor | Residual, norm: Callable[..., Any]) -> Tensor:
    """norm(x). Of a sum that was put off, one part goes to `norm` as x and the other as its
    `residual`; then it gives the sum, too."""
    return x.normed(norm) if isinstance(x, Residual) else norm(x)
