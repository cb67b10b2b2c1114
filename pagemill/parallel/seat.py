"""Where a rank sits: which part of a layer, and which of the layers, are its own.

Standard library only.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Seat:
    """Ranks of one stage, which divide its layers among them, are neighbours."""

    rank: int
    tensor: int = 1  # ranks that share each layer
    pipeline: int = 1  # stages that follow each other

    @property
    def ranks(self) -> int:
        return self.tensor * self.pipeline

    @property
    def part(self) -> int:
        """Which part of each layer."""
        return self.rank % self.tensor

    @property
    def stage(self) -> int:
        """Which run of layers."""
        return self.rank // self.tensor

    @property
    def is_first(self) -> bool:
        return self.stage == 0

    @property
    def is_last(self) -> bool:
        return self.stage == self.pipeline - 1

    def layers(self, count: int) -> range:
        """Its run of so many layers; runs differ by one layer at most."""
        return range(count * self.stage // self.pipeline, count * (self.stage + 1) // self.pipeline)
