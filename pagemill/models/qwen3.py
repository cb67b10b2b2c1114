"""Qwen3 (Qwen team, 2025): Llama with norms of each head's query and key."""

from pagemill.checkpoint import Family
from pagemill.models.blocks import PreNorm
from pagemill.models.layers import NormedAttention
from pagemill.models.llama import Llama


class Qwen3Layer(PreNorm):
    attention_type = NormedAttention


class Qwen3(Llama):
    layer_type = Qwen3Layer


MODEL = Qwen3
FAMILIES = (Family("qwen3", ("Qwen3ForCausalLM",)),)
