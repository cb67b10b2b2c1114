"""Nomic BERT (Nussbaum et al., 2024): BERT with rotary positions and a gated feed-forward network,
without biases."""

from pagemill.checkpoint import Family, WeightSource
from pagemill.models.bert import Bert, BertLayer, keeps_nothing
from pagemill.models.layers import GatedFeedForward
from pagemill.models.pooling import DenseAttention
from pagemill.ops.interface import Array, Step


class NomicBertLayer(BertLayer):
    attention_type = DenseAttention
    ffn_type = GatedFeedForward


class NomicBert(Bert):
    layer_type = NomicBertLayer

    def load_positions(self, source: WeightSource) -> None:
        """There are none: queries and keys are rotated."""

    def place(self, x: Array, step: Step) -> Array:
        return x


MODEL = NomicBert
FAMILIES = (Family("nomic-bert", kv_elements=keeps_nothing, pooling="mean"),)
