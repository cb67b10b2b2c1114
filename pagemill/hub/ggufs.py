"""Which GGUF file to take where there are several: quantizations, split files, what fits.

Works on names and sizes only, of a repository, a folder or a cache. Knows no hub and no disk.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from pagemill.errors import NotFound

# With no quantization asked for: the first that is there. Speed and quality in balance.
PREFERRED = ("Q4_K_M", "Q4_0", "Q4_1", "Q5_K_M", "Q8_0", "Q4_K_S", "BF16", "F16")
SHARE = 0.7  # of the available memory that weights may take; the rest is for keys and values
# By how much weights grow when they are loaded, at most: codes of a whole number of bits take more
# than points of grids and digits of base three.
GROWTH = MappingProxyType({"IQ1": 2.4, "IQ2": 1.8, "IQ3": 1.5, "TQ1": 1.4, "Q1": 2.1})
MAX_SHOWN = 20
MAX_SPLIT = 1000  # files of one model

_SPLIT = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.IGNORECASE)
_QUANT = re.compile(
    r"(?<![A-Z0-9])((?:UD-)?(?:I?Q|TQ)[1-8](?:_[A-Z0-9]+)*|BF16|FP?16|FP?32|MXFP4(?:_MOE)?)"
    r"(?![A-Z0-9_])"
)


@dataclass(frozen=True, slots=True)
class Variant:
    """One model among GGUF files: its files in order, the first of which is opened."""

    quant: str  # "Q4_K_M"; "" when the name does not tell
    files: tuple[str, ...]
    size: int
    expected: int  # files that it was split into

    @property
    def memory(self) -> int:
        """What its weights take when they are loaded, at most."""
        family = self.quant.removeprefix("UD-").partition("_")[0]
        return int(self.size * GROWTH.get(family, 1))

    def __str__(self) -> str:
        loaded = f", in memory up to {gigabytes(self.memory)}" if self.memory > self.size else ""
        return f"{self.quant or self.files[0]} ({gigabytes(self.size)}{loaded})"


def variants(sizes: Mapping[str, int]) -> list[Variant]:
    """The models among files of these sizes. Projectors for images (mmproj) are none."""
    groups: dict[tuple[str, int], list[str]] = {}
    for path in sorted(sizes):
        base = path.rpartition("/")[2].lower()
        if not base.endswith(".gguf") or "mmproj" in base:
            continue
        split = _SPLIT.fullmatch(path)
        group = (split[1], int(split[3])) if split else (path, 1)
        if "imatrix" in base and not quantization(path):
            continue  # statistics that quantizations were made with
        groups.setdefault(group, []).append(path)
    return [
        Variant(quantization(paths[0]), tuple(paths), sum(sizes[path] for path in paths), expected)
        for (_, expected), paths in groups.items()
    ]


def split_names(name: str) -> list[str]:
    """All file names of a split model of which `name` is one; none when it is not split."""
    split = _SPLIT.fullmatch(name)
    if split is None or not 0 < int(split[3]) <= MAX_SPLIT:
        return []
    return [f"{split[1]}-{n:05}-of-{split[3]}{name[-5:]}" for n in range(1, int(split[3]) + 1)]


def choose(found: Sequence[Variant], tag: str, memory: int, where: str) -> Variant:
    """The variant of quantization `tag`; with no tag, the one that fits `memory` bytes.

    With no tag, the rule is: Q4_K_M, or the first of `PREFERRED` that is there. If its weights
    take more than 70 % of the available memory, the largest smaller variant that takes no more.
    Plentiful memory does not choose a larger one: who wants it names it. An explicit tag is taken
    as it is, whatever the memory; so is everything when `memory` is 0, not known.

    Raises NotFound, with all choices and their sizes.
    """
    chosen = _tagged(found, tag, where) if tag else _fitting(found, memory, where)
    if len(chosen.files) != chosen.expected:
        raise NotFound(
            f"{where} has {len(chosen.files)} of the {chosen.expected} files that {chosen.files[0]}"
            " belongs to"
        )
    return chosen


def gigabytes(size: int) -> str:
    """A size for people."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _tagged(found: Sequence[Variant], tag: str, where: str) -> Variant:
    matches = [
        [variant for variant in found if variant.quant == tag],
        [variant for variant in found if variant.quant.removeprefix("UD-") == tag],
        [variant for variant in found if _holds(variant.files[0], tag)],
    ]
    fitting = next((group for group in matches if group), [])
    whole = [variant for variant in fitting if variant.expected == 1]
    if len(fitting) == 1 or len(whole) == 1:
        return whole[0] if len(whole) == 1 else fitting[0]
    if fitting:
        names = ", ".join(variant.files[0] for variant in fitting[:MAX_SHOWN])
        raise NotFound(
            f"{tag} is not one model of {where}: {names}; name a folder, as in org/repo/folder"
        )
    raise NotFound(f"{where} has no quantization {tag}; it has {_listed(found)}")


def _fitting(found: Sequence[Variant], memory: int, where: str) -> Variant:
    limit = SHARE * memory if memory else float("inf")
    # Where one quantization is there twice: the shorter name is the plainer one.
    ranked = sorted(found, key=lambda variant: len(variant.files[0]))
    by_quant = {variant.quant: variant for variant in reversed(ranked)}
    first = next((by_quant[quant] for quant in PREFERRED if quant in by_quant), None)
    if first is not None and first.memory <= limit:
        return first
    smaller = [v for v in ranked if v.memory <= limit and (first is None or v.size < first.size)]
    if not smaller:
        raise NotFound(
            f"no quantization of {where} fits: weights may take {gigabytes(int(limit))}, "
            f"{SHARE:.0%} of the available memory, and it has {_listed(found)}; "
            ":TAG takes one all the same"
        )
    return max(smaller, key=lambda variant: variant.size)


def _listed(found: Sequence[Variant]) -> str:
    ordered = sorted(found, key=lambda variant: variant.size)
    more = f" and {len(found) - MAX_SHOWN} more" if len(found) > MAX_SHOWN else ""
    return ", ".join(str(variant) for variant in ordered[:MAX_SHOWN]) + more


def quantization(path: str) -> str:
    """The quantization that a name tells, of the file or else of its folder."""
    split = _SPLIT.fullmatch(path)
    plain = (split[1] if split else path[: -len(".gguf")]).upper()
    for part in reversed(plain.split("/")):
        if told := _QUANT.findall(part):
            return str(told[-1])
    return ""


def _holds(path: str, word: str) -> bool:
    # Q4_K is not Q4_K_M, and Q4_0 is not IQ4_0.
    pattern = rf"(?<![A-Z0-9]){re.escape(word)}(?![A-Z0-9_])"
    return re.search(pattern, path.upper()) is not None
