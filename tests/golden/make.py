"""Makes the golden files of an architecture: a tiny random model and what transformers says of it.

Needs torch and transformers, which the project does not: run it in an environment of its own that
has numpy too, from the root of the repository, and commit the result.

    PYTHONPATH=. /tmp/golden/bin/python tests/golden/make.py llama qwen2

tests/golden/<name>/ gets config.json and model.safetensors as transformers saves them (BF16),
golden.npz with prompts, float32 logits and greedy text, and model.gguf, the same weights under the
names and in the order of rows that our `Family` gives GGUF files of the architecture. Weights are
drawn wide enough that logits have margins and greedy text varies.
"""

import copy
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from specs import SPECS

from pagemill import models
from pagemill.weights import formats, translate
from pagemill.weights.card import read_card
from pagemill.weights.folder import Folder
from tests.weights import gguf_writer as w

HERE = Path(__file__).parent
LENGTHS, ANSWER_LEN = (1, 5, 40), 20
SPECIALS = 3  # ids that stand for begin and end of text; not in prompts
SEEDS = 16
LEAST_MARGIN = 2e-3  # between the best and the next token
MOST_BYTES = 210_000
BF16_CODE = 30


def make_model(config_class: str, settings: dict[str, Any], seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    config = getattr(transformers, config_class)(**settings)
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", dtype=torch.float32
    )
    with torch.no_grad():
        for name, values in model.named_parameters():
            if values.dim() == 1:
                values.add_(0.2 * torch.randn_like(values))  # to the ones or zeros it begins with
            else:
                wide = 2.0 if "q_proj" in name or "k_proj" in name else 1.0
                values.copy_(torch.randn_like(values) * wide / values.shape[-1] ** 0.5)
        embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        if head is embedding:  # small, or every token is followed by itself
            embedding.mul_(0.2 if config.model_type == "gemma" else 0.5)
        else:
            embedding.mul_(config.hidden_size**0.5)
            head.mul_(2)
        for values in model.parameters():
            values.copy_(values.bfloat16())
    return model.eval()


def save(model: torch.nn.Module, folder: Path) -> None:
    """config.json and model.safetensors."""
    with tempfile.TemporaryDirectory() as there:
        copy.deepcopy(model).to(torch.bfloat16).save_pretrained(there)
        for name in ("config.json", "model.safetensors"):
            (folder / name).write_bytes((Path(there) / name).read_bytes())


def expectations(model: torch.nn.Module, vocab_size: int) -> dict[str, np.ndarray] | None:
    """Prompts, logits and greedy text; None when the text turns on a difference that rounding could
    make."""
    random = np.random.default_rng(7)
    arrays = {}
    for length in LENGTHS:
        prompt = random.integers(SPECIALS, vocab_size, length)
        with torch.no_grad():
            logits = model(torch.tensor(prompt[None])).logits[0].numpy()
            ids = prompt.tolist()
            for _ in range(ANSWER_LEN):
                last = model(torch.tensor([ids])).logits[0, -1].numpy()
                second, first = np.sort(last)[-2:]
                if first - second < LEAST_MARGIN:
                    return None
                ids.append(int(last.argmax()))
        arrays[f"prompt_{length}"] = prompt.astype(np.int32)
        arrays[f"logits_{length}"] = logits.astype(np.float32)
        arrays[f"greedy_{length}"] = np.array(ids[length:], np.int32)
    return arrays


def gguf_value(value: Any) -> bytes:
    if isinstance(value, list):
        return w.value(w.ARRAY, (gguf_type(value[0]), value))
    return w.value(gguf_type(value), value)


def gguf_type(value: Any) -> int:
    return {bool: w.BOOL, int: w.U32, float: w.F32, str: w.STRING}[type(value)]


def write_twin(folder: Path) -> None:
    """The folder as a GGUF file."""
    opened = Folder.open(folder)
    family = models.family_of_class(translate.class_name(opened))
    metadata, general = translate.settings(opened, family)
    keys = general.of(family.name)
    tensors, _ = translate.tensors(opened, family, keys)
    card = read_card(general, tensors, folder.name, family)
    orders = family.row_orders or (lambda *_: {})
    from_folder, to_gguf = orders(card, keys, "safetensors"), orders(card, keys, "gguf")
    file = w.File({key: gguf_value(value) for key, value in metadata.items()})
    for name, tensor in tensors.items():
        form, rows = tensor.read()
        flat = formats.get(form).unpack(rows)
        if len(tensor.shape) == 1:
            flat = flat.T
        short = name.rpartition(".")[0].rpartition(".")[2]
        if short in from_folder:
            flat = flat[from_folder[short]]
        if short in to_gguf:
            turned = np.empty_like(flat)
            turned[to_gguf[short]] = flat
            flat = turned
        dims = tensor.shape[::-1]
        if len(dims) == 1:
            file.tensors.append(w.Tensor(name, dims, flat.tobytes()))
        else:
            raw = formats.get_packing("BF16").pack(flat)
            assert np.array_equal(formats.get("BF16").unpack(raw), flat), name
            file.tensors.append(w.Tensor(name, dims, raw.tobytes(), BF16_CODE))
    (folder / "model.gguf").write_bytes(file.to_bytes())


def attempt(name: str, seed: int) -> tuple[int, int, torch.nn.Module, dict[str, np.ndarray]]:
    """A model, what is expected of it, and how many tokens the dullest of its texts has."""
    config_class, settings = SPECS[name]
    model = make_model(config_class, settings, seed)
    arrays = expectations(model, settings["vocab_size"])
    texts = [] if arrays is None else [arrays[f"greedy_{length}"] for length in LENGTHS]
    return min((len(set(text.tolist())) for text in texts), default=0), seed, model, arrays or {}


def make(name: str) -> None:
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    variety, seed, model, arrays = max(
        (tried for tried in map(attempt, [name] * SEEDS, range(SEEDS))), key=lambda tried: tried[0]
    )
    assert variety > 1, f"{name}: no seed gives text that varies"
    save(model, folder)
    np.savez_compressed(folder / "golden.npz", **arrays)
    write_twin(folder)
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{name}: seed {seed}, {variety} tokens, {size} bytes")
    assert size <= MOST_BYTES, f"smaller, please: the limit is {MOST_BYTES}"


if __name__ == "__main__":
    torch.set_num_threads(1)  # small products; waiting for each other would cost most
    for given in sys.argv[1:] or SPECS:
        make(given)
