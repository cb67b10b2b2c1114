"""A rank's share of a checkpoint's settings: sizes that ranks divide are those of one rank.

Must not know: what settings are for, beyond their names.
"""

from typing import Any, Final

from pagemill.checkpoint import Keys
from pagemill.errors import Unsupported

_DIVIDED: Final = frozenset(
    {
        "expert_feed_forward_length",
        "expert_shared_feed_forward_length",
        "ssm.inner_size",
        "ssm.time_step_rank",
    }
)
_KV_HEADS: Final = "attention.head_count_kv"  # of each layer: at least one where there are any
_GROUPS: Final = "ssm.group_count"  # whole groups for each rank, or one for all of them


class SharedKeys:
    """`checkpoint.Keys` over those of the whole."""

    def __init__(self, whole: Keys, ranks: int) -> None:
        self._whole, self._ranks = whole, ranks

    def __getattr__(self, name: str) -> Any:
        """What needs no cut."""
        return getattr(self._whole, name)

    def whole(self, key: str, least: int, most: int, default: int | None = None) -> int:
        if key in _DIVIDED and self._whole.has(key):
            return self._divided(key, self._whole.whole(key, least, most * self._ranks))
        if key == _GROUPS and self._whole.has(key):
            value = self._whole.whole(key, least, most * self._ranks)
            return value if value == 1 else self._divided(key, value)
        return self._whole.whole(key, least, most, default)

    def wholes(
        self, key: str, count: int, least: int, most: int, default: int | None = None
    ) -> tuple[int, ...]:
        if not self._whole.has(key) or key not in (*_DIVIDED, _KV_HEADS):
            return self._whole.wholes(key, count, least, most, default)
        values = self._whole.wholes(key, count, least, most * self._ranks)
        if key == _KV_HEADS:
            return tuple(-(-value // self._ranks) for value in values)
        return tuple(self._divided(key, value) for value in values)

    def _divided(self, key: str, value: int) -> int:
        if value % self._ranks:
            error: Unsupported = self._whole.unsupported(
                key, f"is {value}, which {self._ranks} ranks cannot divide"
            )
            raise error
        return value // self._ranks
