"""What scores say: a classifier's classes, and how well two texts go together.

A reranker reads both texts at once; of an embedding model it is the cosine of their vectors. Knows
no dialect.
"""

import math
from collections.abc import Sequence

import numpy as np

from pagemill.errors import InvalidRequest
from pagemill.server.inputs import PooledOrder
from pagemill.server.pooled import Pair, PooledCall, check_pools, pair_texts, single_texts
from pagemill.server.ports import ServedModel
from pagemill.server.state import ServerState

_RELEVANT = "yes"  # of rerankers that answer a question in words


def probabilities(vector: bytes, raw: bool = False) -> list[float]:
    """Of each class; one score alone is a probability of its own. `raw`: as the network gives
    them."""
    scores: list[float] = np.frombuffer(vector, "<f4").tolist()
    if raw:
        return scores
    if len(scores) == 1:
        return [_sigmoid(scores[0])]
    top = max(scores)
    parts = [math.exp(score - top) for score in scores]
    return [part / sum(parts) for part in parts]


def label(model: ServedModel, index: int) -> str:
    """The name of a class; files without names get the usual ones."""
    labels = model.card.labels
    return labels[index] if index < len(labels) else f"LABEL_{index}"


async def compare(
    state: ServerState,
    model: ServedModel,
    pairs: Sequence[Pair],
    order: PooledOrder,
    call_id: str,
    started: float,
) -> tuple[list[float], dict[str, int]]:
    """The score of each pair, and what it took."""
    check_pools(model)
    if model.card.pooling == "rank":
        place = _place(model)
        texts = await pair_texts(model, pairs, order)
        call = PooledCall(model, texts, state, call_id, started, order.priority)
        return [
            probabilities(vector, order.raw)[place] for vector in await call.finish()
        ], call.usage()
    # Each text once, however many pairs it is in.
    paths = {text: path for pair in reversed(pairs) for text, path in pair.texts()}
    texts = await single_texts(model, [(path, text) for text, path in paths.items()], order)
    call = PooledCall(model, texts, state, call_id, started, order.priority)
    vectors = dict(zip(paths, await call.finish(), strict=True))
    scores = [_cosine(vectors[pair.first], vectors[pair.second]) for pair in pairs]
    return scores, call.usage()


def _place(model: ServedModel) -> int:
    """Which of the network's scores says how well two texts go together."""
    labels = model.card.labels
    if len(labels) <= 1:
        return 0
    if _RELEVANT in labels:
        return labels.index(_RELEVANT)
    raise InvalidRequest(
        f"{model.name} tells {len(labels)} classes apart and gives no score; ask it at /classify.",
        param="model",
    )


def _sigmoid(score: float) -> float:
    if score >= 0:
        return 1 / (1 + math.exp(-score))
    return math.exp(score) / (1 + math.exp(score))  # exp(-score) could overflow


def _cosine(first: bytes, second: bytes) -> float:
    """Of vectors of length 1."""
    a, b = np.frombuffer(first, "<f4"), np.frombuffer(second, "<f4")
    return float(np.dot(a, b))
