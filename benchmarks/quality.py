"""How right the answers are: perplexity, top-1 agreement and KL divergence on plain text.

    python benchmarks/quality.py [MODEL.gguf] [--llama-cpp --llama-python PYTHON]

Every backend computes the logits of the same tokens; each is held against the reference backend,
whose activations and cache are float32, and with --llama-cpp against llama.cpp. Doctored ones tell
causes apart: references that round activations or the cache as the cpu backend does, and a cpu
backend that is given the same weights as float32, so that it rounds no activations.
"""

import argparse
import hashlib
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pagemill import _native, models
from pagemill.checkpoint import Part, WeightSource
from pagemill.hub.names import Name
from pagemill.hub.store import Store
from pagemill.ops.cpu import CpuOps
from pagemill.ops.interface import Array, Float32, Int32, Ops, Rope, Scoring, Step, Weight
from pagemill.ops.reference import ReferenceOps
from pagemill.text.tokenizer import Tokenizer
from pagemill.types import ModelCard
from pagemill.weights import formats
from pagemill.weights.load import Checkpoint, open_model

PAGE_SIZE = 16
GROUP = 32  # inputs of a quantized product that share a scale, and elements of a q8 key
VALUE_GROUP = 128  # elements of a q8 value that share a scale
REFERENCE, LLAMA_CPP = "reference", "llama.cpp"
REFERENCE_INT8, REFERENCE_FP16 = "reference, int8 activations", "reference, fp16 cache"
REFERENCE_BF16 = "reference, fp16 cache, bf16 attention"
_ROWS = 32  # whose probabilities are compared at once; float64 over a whole vocabulary is large
_UNROUNDED = frozenset({"F32", "F16", "BF16"})  # weight formats that take float activations
_EXACT_TOKENS = 8  # the plain reference needs up to a second for one


class WholeReference(ReferenceOps):
    """The reference with each matrix product over all rows at once, which is some twenty times
    faster. Rounding then depends on the shape of the call, which is no matter here."""

    def linear(self, x: Array, weight: Array) -> Array:
        return np.asarray(x @ weight.T, np.float32)


class RoundedReference(WholeReference):
    """Attention over keys and values that a cache rounded; these are in float32."""

    def attention(
        self,
        q: Array,
        k: Array,
        v: Array,
        kv: Array,
        step: Step,
        scoring: Scoring,
        sinks: Array | None = None,
        rope: Rope | None = None,
    ) -> Array:
        if rope is not None:
            q, k = (self.rope(x, step.positions, rope) for x in (q, k))
        q, k, v = self.rounded(q, k, v)
        return super().attention(q, k, v, kv, step, scoring, sinks)

    def rounded(self, q: Float32, k: Float32, v: Float32) -> tuple[Float32, Float32, Float32]:
        return q, k, v


class HalfCacheReference(RoundedReference):
    """Keys and values are rounded to fp16, as the cpu backend's cache holds them."""

    def rounded(self, q: Float32, k: Float32, v: Float32) -> tuple[Float32, Float32, Float32]:
        return q, k.astype(np.float16).astype(np.float32), v.astype(np.float16).astype(np.float32)


class Bf16AttentionReference(HalfCacheReference):
    """What avx512_bf16 kernels multiply is rounded to bf16, too; but for the weights of values."""

    def rounded(self, q: Float32, k: Float32, v: Float32) -> tuple[Float32, Float32, Float32]:
        q, k, v = super().rounded(q, k, v)
        return bf16_rounded(q), bf16_rounded(k), bf16_rounded(v)


def bf16_rounded(x: Float32) -> Float32:
    """Each number at the nearest of bf16, to the even one of two."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    nearest = bits + (np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1)))
    return np.asarray((nearest & np.uint32(0xFFFF0000)).view(np.float32))


class Q8CacheReference(RoundedReference):
    """Keys and values are rounded as the cpu backend's q8 cache has them."""

    def rounded(self, q: Float32, k: Float32, v: Float32) -> tuple[Float32, Float32, Float32]:
        return q, q8_rounded(k, GROUP), q8_rounded(v, VALUE_GROUP)


def q8_rounded(x: Float32, group: int) -> Float32:
    """(..., D), each group of elements at the nearest of 255 steps, whose size is fp16."""
    groups = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % group)])
    groups = groups.reshape(*x.shape[:-1], -1, group)
    scale = (np.abs(groups).max(axis=-1, keepdims=True) / np.float32(127)).astype(np.float16)
    scale = scale.astype(np.float32)
    steps = np.rint(np.divide(groups, scale, out=np.zeros_like(groups), where=scale > 0))
    rounded = np.clip(steps, -127, 127) * scale
    return np.asarray(rounded.reshape(*x.shape[:-1], -1)[..., : x.shape[-1]], np.float32)


@dataclass(frozen=True, eq=False)
class _Matrix:
    values: Float32
    quantized: bool


class Int8Reference(WholeReference):
    """What enters a product with quantized weights is rounded to int8, per row and group of 32."""

    def upload(self, weight: Weight, table: bool = False) -> Array:
        return _Matrix(super().upload(weight), not _UNROUNDED.issuperset(weight.formats))

    def embed(self, ids: Array, table: Array) -> Array:
        return super().embed(ids, table.values)

    def linear(self, x: Array, weight: Array) -> Array:
        return super().linear(int8_rounded(x) if weight.quantized else x, weight.values)


def int8_rounded(x: Float32) -> Float32:
    """(T, K), each group of 32 at the nearest of 255 steps between plus and minus its largest."""
    groups = x.reshape(len(x), -1, GROUP)
    scale = np.abs(groups).max(axis=-1, keepdims=True) / np.float32(127)
    steps = np.rint(groups / np.where(scale > 0, scale, 1))
    return np.asarray(steps * scale, np.float32).reshape(x.shape)


class FloatSource:
    """The same weights as float32, for a backend whose kernels then round nothing."""

    def __init__(self, source: WeightSource) -> None:
        self._source = source

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def matrix(self, *parts: Part, k: int) -> Weight:
        stored = self._source.matrix(*parts, k=k)
        parts = [
            formats.get(name).unpack(part.reshape(rows, -1))
            for name, part, rows in zip(stored.formats, stored.parts, stored.rows, strict=True)
        ]
        values = np.concatenate(parts).view(np.uint8)
        return Weight(stored.shape, ("F32",), (values,), (stored.shape[0],))


class Runner:
    """One backend with the model loaded."""

    def __init__(self, card: ModelCard, source: WeightSource, ops: Ops, tokens: int) -> None:
        model = models.build(card, ops, source)
        self._kv = model.new_kv(-(-tokens // PAGE_SIZE), PAGE_SIZE)
        self._model = ops.compile(model)

    def logits(self, ids: Int32) -> Float32:
        """(T,) ids of one sequence -> (T, V)."""
        num = len(ids)
        at = np.arange(num, dtype=np.int32)
        step = Step(
            token_ids=ids,
            positions=at,
            slots=at,
            row_starts=np.array([0, num], np.int32),
            kv_lens=np.array([num], np.int32),
            page_table=np.arange(-(-num // PAGE_SIZE), dtype=np.int32)[None],
            out_rows=at,
            page_size=PAGE_SIZE,
        )
        return np.array(self._model(step, self._kv))  # a backend may reuse its own


@dataclass(frozen=True)
class Scores:
    """One number for each predicted token, of `other` held against `base`."""

    base_nll: NDArray[np.float64]
    other_nll: NDArray[np.float64]
    agree: NDArray[np.bool_]  # both think the same token the most likely
    kl: NDArray[np.float64]  # of other from base
    kl_back: NDArray[np.float64]  # of base from other

    @classmethod
    def join(cls, parts: "list[Scores]") -> "Scores":
        """The scores of several windows as one."""
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))

    @property
    def perplexity(self) -> float:
        """Of other."""
        return float(np.exp(self.other_nll.mean()))

    @property
    def ratio(self) -> float:
        """Perplexity of other to that of base; 1 is equal, more is worse."""
        return float(np.exp((self.other_nll - self.base_nll).mean()))

    @property
    def ratio_error(self) -> float:
        """One standard error of `ratio`, from the pairs of tokens."""
        change = self.other_nll - self.base_nll
        return float(change.std() / np.sqrt(len(change)))

    @property
    def agreement(self) -> float:
        return float(self.agree.mean())


def compare(base: Float32, other: Float32, ids: Int32) -> Scores:
    """Logits (T, V) of two backends over the same ids (T,): T - 1 predictions of the next token."""
    parts = []
    for start in range(0, len(ids) - 1, _ROWS):
        rows = slice(start, min(start + _ROWS, len(ids) - 1))
        p, q = _log_softmax(base[rows]), _log_softmax(other[rows])
        chosen = np.arange(len(p)), ids[start + 1 : rows.stop + 1]
        parts.append(
            Scores(
                base_nll=-p[chosen],
                other_nll=-q[chosen],
                agree=p.argmax(axis=-1) == q.argmax(axis=-1),
                kl=(np.exp(p) * (p - q)).sum(axis=-1),
                kl_back=(np.exp(q) * (q - p)).sum(axis=-1),
            )
        )
    return Scores.join(parts)


def _log_softmax(logits: Float32) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def documentation() -> str:
    """Prose that every machine has: the language reference of the running interpreter."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


def windows_of(checkpoint: Checkpoint, text: str, count: int, size: int) -> Int32:
    """The first tokens of a text, (count, size); each window is a sequence of its own, and begins
    as the model's prompts do."""
    tokenizer = Tokenizer.from_gguf(checkpoint.metadata)
    begin = [tokenizer.bos_id] if tokenizer.add_bos and tokenizer.bos_id is not None else []
    take = size - len(begin)
    # Tokens come in fewer than characters, so this much of a long text is enough.
    ids = tokenizer.encode(text[: count * size * 16])
    if len(ids) < count * take:
        raise SystemExit(f"the text has {len(ids)} tokens; {count} windows of {take} need more")
    windows = [begin + ids[at : at + take] for at in range(0, count * take, take)]
    return np.array(windows, np.int32)


def runners(
    checkpoint: Checkpoint, isas: list[str], threads: int, tokens: int
) -> dict[str, Runner]:
    """What is measured, by name."""
    stored, floats = checkpoint.source, FloatSource(checkpoint.source)
    named: dict[str, tuple[Ops, WeightSource]] = {
        REFERENCE: (WholeReference(), stored),
        REFERENCE_INT8: (Int8Reference(), stored),
        REFERENCE_FP16: (HalfCacheReference(), stored),
        REFERENCE_BF16: (Bf16AttentionReference(), stored),
        f"cpu {isas[0]}, float weights": (CpuOps(threads, isas[0]), floats),
        f"cpu {isas[0]}, fp32 cache": (CpuOps(threads, isas[0], "f32"), stored),
        f"cpu {isas[0]}, q8 cache": (CpuOps(threads, isas[0], "q8"), stored),
        f"cpu {isas[0]}, q8 cache, float weights": (CpuOps(threads, isas[0], "q8"), floats),
    }
    named |= {f"cpu {isa}": (CpuOps(threads, isa), stored) for isa in isas}
    return {
        name: Runner(checkpoint.card, source, ops, tokens) for name, (ops, source) in named.items()
    }


def pairs(isas: list[str], others: list[str]) -> list[tuple[str, str]]:
    """(base, other) of each row of the table."""
    cpu = f"cpu {isas[0]}"
    wanted = [(REFERENCE, other) for other in others if other != REFERENCE]
    wanted.append((REFERENCE_INT8, f"{cpu}, fp32 cache"))
    wanted.append((f"{cpu}, fp32 cache", cpu))
    wanted += [(cpu, f"cpu {isa}") for isa in isas[1:]]
    if LLAMA_CPP in others:
        wanted.append((LLAMA_CPP, cpu))
    return wanted


def measure(
    windows: Int32,
    run: Mapping[str, Runner],
    llama: Float32 | None,
    rows: list[tuple[str, str]],
) -> dict[tuple[str, str], Scores]:
    """The scores of each pair over all windows. llama: its logits (windows, T, V)."""
    parts: dict[tuple[str, str], list[Scores]] = {pair: [] for pair in rows}
    for index, ids in enumerate(windows):
        logits = {name: runner.logits(ids) for name, runner in run.items()}
        if llama is not None:
            logits[LLAMA_CPP] = llama[index]
        for base, other in rows:
            parts[base, other].append(compare(logits[base], logits[other], ids))
        print(f"window {index + 1} of {len(windows)}", file=sys.stderr)
    return {pair: Scores.join(scores) for pair, scores in parts.items()}


def table(scores: Mapping[tuple[str, str], Scores]) -> Iterator[str]:
    """Markdown, a line at a time."""
    yield "| measured | against | perplexity | ratio | top-1 | KL | KL 99 % | KL back |"
    yield "|---|---|---|---|---|---|---|---|"
    for (base, other), s in scores.items():
        yield (
            f"| {other} | {base} | {s.perplexity:.4f} | {s.ratio:.5f} ± {s.ratio_error:.5f} "
            f"| {s.agreement:.2%} | {s.kl.mean():.2e} | {np.percentile(s.kl, 99):.2e} "
            f"| {s.kl_back.mean():.2e} |"
        )


def llama_logits(args: argparse.Namespace, windows: Int32, vocab: int, folder: Path) -> Float32:
    """Logits of llama.cpp (windows, T, V), left in a file of `folder` and mapped."""
    np.save(folder / "ids.npy", windows)
    script, logits = Path(__file__).with_name("llama_logits.py"), folder / "logits.npy"
    command = [args.llama_python, script, args.model, folder / "ids.npy", logits]
    subprocess.run([*command, str(vocab), str(args.threads)], check=True)  # noqa: S603  ours
    mapped: Float32 = np.load(logits, mmap_mode="r", allow_pickle=False)
    return mapped


def exactness(checkpoint: Checkpoint, whole: Runner, ids: Int32) -> float:
    """The largest difference of a logit between the reference as it is and as it is run here."""
    ids = ids[:_EXACT_TOKENS]
    plain = Runner(checkpoint.card, checkpoint.source, ReferenceOps(), len(ids)).logits(ids)
    return float(np.abs(plain - whole.logits(ids)).max())


def _pulled_model() -> Path:
    home = Path(os.environ.get("PAGEMILL_HOME", Path.home() / ".pagemill"))
    stored = Store(home).find(Name.parse("smollm2"))
    if stored is None:
        raise SystemExit("name a model file, or run `pagemill pull smollm2` first")
    return stored.path


def _arguments() -> argparse.Namespace:
    sets = _native.instruction_sets()
    parser = argparse.ArgumentParser(description="Perplexity and KL divergence by backend.")
    parser.add_argument("model", nargs="?", type=Path, help="a GGUF file (default: smollm2)")
    parser.add_argument("--text", type=Path, help="UTF-8 (default: the language reference)")
    parser.add_argument("--windows", type=int, default=12)
    parser.add_argument("--window", type=int, default=512, help="tokens of one window")
    parser.add_argument("--isa", action="append", choices=sets, help="default: the best; repeat")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--llama-cpp", action="store_true", help="also through cyllama")
    parser.add_argument("--llama-python", default=sys.executable, help="one that has cyllama")
    args = parser.parse_args()
    args.model = args.model or _pulled_model()
    args.isa = args.isa or sets[:1]
    return args


def main() -> None:
    args = _arguments()
    checkpoint = open_model(args.model, models)
    text = args.text.read_text("utf-8") if args.text else documentation()
    windows = windows_of(checkpoint, text, args.windows, args.window)
    digest = hashlib.sha256(windows.tobytes()).hexdigest()[:12]
    print(f"{args.model.name}; {windows.size} tokens in windows of {args.window}, ids {digest}")
    print(f"Python {platform.python_version()}, numpy {np.__version__}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        llama = None
        if args.llama_cpp:
            llama = llama_logits(args, windows, checkpoint.card.vocab_size, Path(folder))
        run = runners(checkpoint, args.isa, args.threads, args.window)
        apart = exactness(checkpoint, run[REFERENCE], windows[0])
        print(f"whole products move a reference logit by at most {apart:.1e}")
        rows = pairs(args.isa, [*run, *([LLAMA_CPP] if args.llama_cpp else [])])
        for line in table(measure(windows, run, llama, rows)):
            print(line)


if __name__ == "__main__":
    main()
