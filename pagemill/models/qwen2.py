"""Qwen2 and Qwen2.5 (Qwen team, 2024): Llama with biases of queries, keys and values, which the
checkpoint brings along."""

from pagemill.checkpoint import Family
from pagemill.models.llama import Llama

MODEL = Llama
FAMILIES = (Family("qwen2", ("Qwen2ForCausalLM",)),)
