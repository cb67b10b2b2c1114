"""Pages of keys and values, and what eight bits mean, in plain torch."""

from dataclasses import dataclass

import torch

EIGHT_BITS = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}


@dataclass(frozen=True)
class Pages:
    """One layer's cache, as kernels take it."""

    keys: torch.Tensor
    values: torch.Tensor
    key_scales: torch.Tensor | None = None
    value_scales: torch.Tensor | None = None

    def tensors(self) -> list[torch.Tensor]:
        four = (self.keys, self.values, self.key_scales, self.value_scales)
        return [tensor for tensor in four if tensor is not None]


def pages(kind: torch.dtype, num_pages: int, page_size: int, heads: int, dim: int) -> Pages:
    """Pages of zeros."""
    shape = (num_pages, page_size, heads, dim)
    both = [torch.zeros(shape, dtype=kind) for _ in range(2)]
    if kind not in EIGHT_BITS:
        return Pages(*both)
    return Pages(*both, *(torch.zeros(shape[:3]) for _ in range(2)))


def encoded(x: torch.Tensor, kind: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors along the last axis as codes and scales."""
    if kind not in EIGHT_BITS:
        return x.to(kind), torch.ones(x.shape[:-1])
    scales = x.abs().amax(-1).clamp(min=1e-30) / EIGHT_BITS[kind]
    x = (x / scales[..., None]).clamp(-EIGHT_BITS[kind], EIGHT_BITS[kind])
    return (x.round() if kind == torch.int8 else x).to(kind), scales


def decoded(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    return codes.float() * scales[..., None]
