"""How large everything is that is measured: as networks of today have it, or tiny, to try the
measurement itself where there is no card."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a Llama."""

    name: str
    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    dim: int
    vocab: int
    tied: bool


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of every part."""

    page: int
    copied_bytes: int
    cube: int  # rows, columns and depth of the products that measure the card
    heads: int
    kv_heads: int
    dim: int
    contexts: tuple[int, ...]
    batches: tuple[int, ...]
    prompts: tuple[tuple[int, int], ...]  # how many, tokens of each
    hidden: int
    ffn: int
    rows: tuple[int, ...]  # of products, norms and gates
    experts: tuple[int, int, int, int]  # how many, of a token, width, inner width
    vocab: int
    sampled: tuple[int, ...]
    small: Shape
    large: Shape
    decoded: tuple[int, ...]  # rows of a step
    history: int
    prefills: tuple[tuple[int, int], ...]
    users: tuple[int, ...]
    prompt: int
    answer: int
    seconds: float  # that a measurement is repeated for


FULL = Sizes(
    page=16,
    copied_bytes=4 << 30,
    cube=8192,
    heads=32,
    kv_heads=8,
    dim=128,
    contexts=(1024, 4096, 16384),
    batches=(1, 64, 256),
    prompts=((1, 2048), (1, 8192), (16, 512)),
    hidden=4096,
    ffn=14336,
    rows=(1, 16, 64, 256, 4096),
    experts=(64, 8, 2048, 1024),
    vocab=128256,
    sampled=(1, 64, 256),
    small=Shape("Llama 1B", 16, 2048, 8192, 32, 8, 64, 128256, True),
    large=Shape("Llama 8B", 32, 4096, 14336, 32, 8, 128, 128256, False),
    decoded=(1, 8, 64, 256),
    history=500,
    prefills=((1, 2048), (8, 512)),
    users=(1, 8, 32, 64, 256),
    prompt=100,
    answer=200,
    seconds=0.1,
)

TINY = Sizes(
    page=16,
    copied_bytes=1 << 16,
    cube=64,
    heads=4,
    kv_heads=2,
    dim=16,
    contexts=(32,),
    batches=(1, 2),
    prompts=((1, 20), (2, 8)),
    hidden=256,
    ffn=256,
    rows=(1, 20),
    experts=(4, 2, 64, 64),
    vocab=512,
    sampled=(1, 2),
    small=Shape("tiny", 2, 256, 256, 4, 2, 64, 512, True),
    large=Shape("less tiny", 2, 256, 512, 4, 2, 64, 512, False),
    decoded=(1, 2),
    history=20,
    prefills=((1, 32),),
    users=(1, 2),
    prompt=20,
    answer=4,
    seconds=0.0,
)
