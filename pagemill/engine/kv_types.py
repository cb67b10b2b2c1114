"""What keys and values are kept as: which types a backend has, and what they take.

Standard library only. Must not know: how anything is stored or computed.
"""

from types import MappingProxyType

from pagemill.engine.devices import TORCH_BACKENDS, element_size
from pagemill.errors import ConfigError
from pagemill.types import ModelCard

_AUTO = "auto"  # on tensors: as what is computed in
_EIGHT_BITS = ("q8", "fp8")  # under scales
_ON_TENSORS = ("f16", "bf16", "f32", *_EIGHT_BITS)
_CHOICES = MappingProxyType(
    {
        "cpu": ("f16", "f32", "q8"),
        "reference": ("f32",),
        "torch": _ON_TENSORS,
        "cuda": _ON_TENSORS,
    }
)
_DEFAULTS = MappingProxyType({"cpu": "f16", "reference": "f32"})
_BYTES = MappingProxyType({"f32": 4, "f16": 2, "bf16": 2, "q8": 1, "fp8": 1})
_SCALE_BYTES = 4  # on tensors: of each head vector


def kv_type(asked: str, backend: str, device: str = _AUTO) -> str:
    """`--kv-cache-dtype` with "auto" resolved where the backend has a type of its own. ConfigError
    lists what the backend has."""
    if asked == _AUTO:
        return _DEFAULTS.get(backend, _AUTO)
    have: tuple[str, ...] = _CHOICES.get(backend, ())
    where = f"the {backend} backend"
    if device == "mps":  # it has no floats of eight bits
        have, where = tuple(kind for kind in have if kind != "fp8"), f"{where} on mps"
    if asked not in have:
        raise ConfigError(
            f"kv_cache_dtype is {asked}; {where} has {', '.join((_AUTO, *have))}",
            param="kv_cache_dtype",
        )
    return asked


def kv_bytes_per_token(
    card: ModelCard, backend: str = "cpu", dtype: str = _AUTO, kv_dtype: str = _AUTO
) -> int:
    """Keys and values of one token in all layers."""
    kind = kv_type(kv_dtype, backend)
    elements = card.kv_elements
    if backend == "cpu" and kind == "q8":
        return elements * 17 // 16  # with scales
    scales = 0
    if backend in TORCH_BACKENDS and kind in _EIGHT_BITS:
        scales = _SCALE_BYTES * -(-elements // card.head_dim)
    return elements * _BYTES.get(kind, element_size(backend, dtype)) + scales
