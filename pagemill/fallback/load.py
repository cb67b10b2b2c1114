"""From an opened folder to a network that may serve."""

import torch

from pagemill.fallback.folder import Foreign
from pagemill.fallback.network import Network
from pagemill.fallback.trial import try_out


def load(foreign: Foreign, threads: int) -> Network:
    """Build, load, try out; torch computes on `threads` threads from then on, in this process.

    Raises Unsupported, with the reason, for a network that pages cannot serve.
    """
    torch.set_num_threads(threads)
    network = Network(foreign)
    try_out(network, foreign.card.vocab_size, foreign.dtype)
    return network
