"""Rotary frequencies of a checkpoint (Su et al., RoFormer, 2021) and the ways to stretch them.

Scaling: "linear" (positions divided by a factor), "dynamic" (NTK-aware: a larger base), "yarn"
(Peng et al., 2023), "llama3" (factors by wavelength; GGUF files hold them as the tensor
rope_freqs), "longrope" (one factor for each frequency, for short and for long contexts). Must not
know: networks.
"""

import math

from pagemill.checkpoint import Keys, WeightSource
from pagemill.ops.interface import Rope
from pagemill.types import ModelCard

_MOST_FACTOR = 1e6
_MOST_LEN = 1 << 24
_LEAST_DIM = 2
_SCALINGS = ("none", "linear", "dynamic", "yarn", "llama3", "longrope")


def rotary(
    card: ModelCard,
    source: WeightSource,
    *,
    theta: float = 0.0,
    scaled: bool = True,
    truncate: bool = True,
) -> Rope:
    """The frequencies of the card, stretched as the checkpoint says. `theta` replaces the card's
    base; `scaled` False ignores the scaling (for layers that are exempt from it); `truncate` is
    how YaRN's ramp ends where the checkpoint leaves it open: at whole elements or between."""
    keys, dim = source.keys, card.rope_dim
    base = theta or card.rope_theta
    plain = tuple(base ** (-2 * i / dim) for i in range(dim // 2))
    if not scaled:
        return Rope(plain)
    kind = keys.text("rope.scaling.type", "none")
    if kind not in _SCALINGS:
        choices = ", ".join(_SCALINGS)
        raise keys.unsupported("rope.scaling.type", f"{kind[:64]!r} cannot be run, only {choices}")
    if source.has("rope_freqs"):  # takes the place of what "llama3" would compute
        return Rope(_divided(plain, _factors(source, "rope_freqs", dim // 2)))
    if source.has("rope_factors_short") or kind == "longrope":
        return _longrope(card, source, plain)
    if kind == "none":
        return Rope(plain)
    factor = keys.real("rope.scaling.factor", _MOST_FACTOR)
    if kind == "linear":
        return Rope(tuple(f / factor for f in plain))
    if kind == "dynamic":
        # Stretched for the longest context that the card allows, whatever the length in use: a
        # frequency that changed with the length would change what is in the cache already.
        if dim == _LEAST_DIM:
            raise keys.bad("rope.dimension_count", f"is {dim}, too few for dynamic scaling")
        original = original_length(card, keys)
        longest = max(card.context_length, original)
        stretch = factor * longest / original - (factor - 1)
        larger = base * stretch ** (dim / (dim - 2))
        return Rope(tuple(larger ** (-2 * i / dim) for i in range(dim // 2)))
    if kind == "llama3":
        return Rope(_llama3(keys, card, plain, factor))
    return _yarn(keys, card, plain, base, truncate)


def original_length(card: ModelCard, keys: Keys) -> int:
    return keys.whole(
        "rope.scaling.original_context_length", 2, _MOST_LEN, max(2, card.context_length)
    )


def _factors(source: WeightSource, name: str, count: int) -> list[float]:
    """What frequencies are divided by, where a tensor says so."""
    factors = [float(factor) for factor in source.vector((name, count))]
    for factor in factors:
        if not 0 < factor <= _MOST_FACTOR:
            raise source.keys.bad(name, f"holds {factor}, not above 0 and at most {_MOST_FACTOR}")
    return factors


def _divided(plain: tuple[float, ...], factors: list[float]) -> tuple[float, ...]:
    return tuple(frequency / by for frequency, by in zip(plain, factors, strict=True))


def _llama3(
    keys: Keys, card: ModelCard, plain: tuple[float, ...], factor: float
) -> tuple[float, ...]:
    """Long wavelengths are divided by the factor, short ones stay, between them it is blended."""
    low = keys.real("rope.scaling.low_freq_factor", _MOST_FACTOR, 1.0)
    high = keys.real("rope.scaling.high_freq_factor", _MOST_FACTOR, 4.0)
    if high <= low:
        raise keys.bad("rope.scaling.high_freq_factor", f"is {high}, not above {low}")
    original = original_length(card, keys)
    out = []
    for frequency in plain:
        wavelength = 2 * math.pi / frequency
        if wavelength < original / high:
            out.append(frequency)
        elif wavelength > original / low:
            out.append(frequency / factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            out.append((1 - smooth) * frequency / factor + smooth * frequency)
    return tuple(out)


def _yarn(
    keys: Keys, card: ModelCard, plain: tuple[float, ...], base: float, truncate: bool
) -> Rope:
    """Frequencies that turn often within the original context stay, those that turn seldom are
    divided by the factor, with a ramp between; cosines and sines grow by the attention factor."""
    dim, original = card.rope_dim, original_length(card, keys)
    if base <= 1:
        raise keys.bad("rope.freq_base", f"is {base}, which YaRN needs above 1")
    factor = keys.real("rope.scaling.factor", _MOST_FACTOR)
    fast = keys.real("rope.scaling.yarn_beta_fast", _MOST_FACTOR, 32.0)
    slow = keys.real("rope.scaling.yarn_beta_slow", _MOST_FACTOR, 1.0)

    def dimension(rotations: float) -> float:
        """Which element turns so often within the original context."""
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(base))

    first, last = dimension(fast), dimension(slow)
    if keys.flag("rope.scaling.yarn_truncate", truncate):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dim - 1)
    width = max(last - first, 0.001)
    out = []
    for i, frequency in enumerate(plain):
        divided = min(1.0, max(0.0, (i - first) / width))
        out.append(frequency / factor * divided + frequency * (1 - divided))
    default = 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0
    return Rope(tuple(out), keys.real("rope.scaling.attn_factor", _MOST_FACTOR, default))


def _longrope(card: ModelCard, source: WeightSource, plain: tuple[float, ...]) -> Rope:
    """Short factors within the original context, long ones when the card allows more."""
    keys, half = source.keys, len(plain)
    original = original_length(card, keys)
    kind = "long" if card.context_length > original else "short"
    if source.has(f"rope_factors_{kind}"):
        factors = _factors(source, f"rope_factors_{kind}", half)
        other = "short" if kind == "long" else "long"
        source.vector((f"rope_factors_{other}", half))  # not for this length; known all the same
    else:
        factors = list(keys.reals(f"rope.scaling.{kind}_factor", half, _MOST_FACTOR))
    stretch = card.context_length / original
    default = 1.0
    if stretch > 1:
        default = math.sqrt(1 + math.log(stretch) / math.log(original))
    scale = keys.real("rope.scaling.attn_factor", _MOST_FACTOR, default)
    return Rope(_divided(plain, factors), scale)
