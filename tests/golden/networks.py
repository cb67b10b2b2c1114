"""Networks that mixtures treat differently, as shapes of tensors; and formats in brief."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """A network in few words. Matrices have few rows: only the length of rows matters."""

    architecture: str
    layers: int
    heads: int
    kv_heads: int
    experts: int = 0
    k: int = 256
    tied: bool = False  # no matrix of its own for the output
    joined: bool = False  # queries, keys and values in one matrix


NETWORKS = {
    "every head its own keys": Shape("llama", 32, 8, 8),
    "four queries for each key": Shape("llama", 32, 8, 2),
    "tied": Shape("llama", 13, 8, 2, tied=True),
    "eight experts": Shape("llama", 24, 8, 2, experts=8),
    "four experts": Shape("llama", 24, 8, 4, experts=4),
    "80 layers": Shape("llama", 80, 8, 1),
    "rows of 288": Shape("llama", 16, 8, 4, k=288, tied=True),
    "rows of 40": Shape("llama", 8, 4, 4, k=40),
    "joined": Shape("phi3", 32, 8, 8, joined=True),
    "falcon": Shape("falcon", 32, 8, 1, joined=True),
}


def shapes(network: Shape) -> dict[str, tuple[int, ...]]:
    """Its tensors, in the order of numpy."""
    matrix, vector = (4, network.k), (network.k,)
    found: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (8, network.k),
        "output_norm.weight": vector,
    }
    if not network.tied:
        found["output.weight"] = (8, network.k)
    parts = ["attn_qkv"] if network.joined else ["attn_q", "attn_k", "attn_v"]
    for layer in range(network.layers):
        block = dict.fromkeys([*parts, "attn_output"], matrix)
        block |= {"attn_norm": vector, "ffn_norm": vector}
        if network.experts:
            block["ffn_gate_inp"] = (network.experts, network.k)
            for part in ("gate", "up", "down"):
                block[f"ffn_{part}_exps"] = (network.experts, *matrix)
        else:
            block |= {f"ffn_{part}": matrix for part in ("gate", "up", "down")}
        found |= {f"blk.{layer}.{name}.weight": shape for name, shape in block.items()}
    return found


def brief(formats: dict[str, str]) -> dict[str, str]:
    """The names of each format's tensors, with the layers where these differ:
    {"Q6_K": "attn_v 0-3 6, output", "Q4_K": "attn_k, attn_v 4-5 7"}"""
    layers: dict[str, dict[str, list[int]]] = {}  # name: format: layers
    for name, form in formats.items():
        parts = name.removesuffix(".weight").split(".")
        layer, short = (int(parts[1]), parts[2]) if parts[0] == "blk" else (0, parts[0])
        layers.setdefault(short, {}).setdefault(form, []).append(layer)
    found: dict[str, list[str]] = {}
    for short, by_format in sorted(layers.items()):
        for form, numbers in by_format.items():
            which = f"{short} {_runs(sorted(numbers))}" if len(by_format) > 1 else short
            found.setdefault(form, []).append(which)
    return {form: ", ".join(found[form]) for form in sorted(found)}


def _runs(numbers: list[int]) -> str:
    """[0, 1, 2, 5] -> "0-2 5" """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return " ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
