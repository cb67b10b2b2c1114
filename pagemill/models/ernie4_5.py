"""ERNIE 4.5 (Baidu, 2025), its networks without experts: Llama with biases where the checkpoint has
them, whose folders, too, pair neighbouring elements for rotary positions."""

from pagemill.checkpoint import Family
from pagemill.models.command_r import neighbours
from pagemill.models.llama import Llama

MODEL = Llama
FAMILIES = (Family("ernie4_5", ("Ernie4_5ForCausalLM",), row_orders=neighbours),)
