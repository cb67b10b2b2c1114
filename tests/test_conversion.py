"""A whole folder becomes a GGUF file that says the same."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pagemill import models
from pagemill.conversion import _NoWeights, write_gguf
from pagemill.errors import PagemillError, Unsupported
from pagemill.ops.reference import ReferenceOps
from pagemill.text.tokenizer import Tokenizer
from pagemill.weights.gguf import GGUFFile
from pagemill.weights.load import open_model
from pagemill.weights.mixtures import mixture
from tests.models.test_golden import NUM_PAGES, PAGE_SIZE, step_of

GOLDEN = Path(__file__).parent / "golden"
NAMES = ("llama", "llama_tied", "mistral3", "mixtral", "gemma3", "gpt_oss", "deepseek2")
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


def tokenizer_json() -> str:
    """96 tokens: three special ones, most bytes of ASCII, and what one merge makes."""
    chars = [*(chr(code) for code in range(33, 33 + 91)), "\u0120", "He"]
    vocab = {"<pad>": 0, "<s>": 1, "</s>": 2}
    vocab |= {char: len(vocab) + n for n, char in enumerate(chars)}
    added = [
        {"id": n, "content": text, "special": True}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for text, n in list(vocab.items())[:3]
    ]
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    bytes_ |= {"trim_offsets": True}
    model = {"type": "BPE", "vocab": vocab, "merges": [["H", "e"]]}
    parts = {"pre_tokenizer": bytes_, "decoder": bytes_, "model": model, "added_tokens": added}
    return json.dumps(parts)


@pytest.fixture(params=NAMES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    made = tmp_path / "source"
    made.mkdir()
    for name in ("config.json", "model.safetensors", "golden.npz"):
        shutil.copy(GOLDEN / request.param / name, made)
    (made / "tokenizer.json").write_text(tokenizer_json())
    named = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    (made / "tokenizer_config.json").write_text(json.dumps({**named, "chat_template": TEMPLATE}))
    return made


def logits(path: Path, prompt: np.ndarray) -> np.ndarray:
    checkpoint = open_model(path, models)
    ops = ReferenceOps()
    model = models.build(checkpoint.card, ops, checkpoint.source)
    kv = model.new_kv(NUM_PAGES, PAGE_SIZE)
    return np.asarray(model(step_of((prompt.tolist(), 0)), kv))


def test_the_file_says_what_the_folder_says(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "new.gguf"
    written = write_gguf(folder, target, mixture("bf16"), name="tiny")
    assert written.notes == ()
    with np.load(folder / "golden.npz") as golden:
        prompt = golden["prompt_40"]
    assert np.abs(logits(folder, prompt) - logits(target, prompt)).max() < 2e-5
    with GGUFFile.open(target) as file:
        metadata = file.metadata
        own, new = Tokenizer.from_folder(folder), Tokenizer.from_gguf(metadata)
        for text in ("Hello, world! 123 ~", "<s>a</s>", " "):
            assert new.encode_prompt(text) == own.encode_prompt(text)
        assert metadata["general.name"] == "tiny"
        assert metadata["tokenizer.chat_template"] == TEMPLATE
        assert metadata["tokenizer.ggml.padding_token_id"] == 0
        rope = [key for key in metadata if ".rope.scaling." in key]
        assert (
            bool(rope) != ("rope_freqs.weight" in file.tensors) or "llama_tied" not in folder.name
        )
        norms = [info.format for name, info in file.tensors.items() if "_norm" in name]
        assert set(norms) == {"F32"}


def test_rounded(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "new.gguf"
    summary = write_gguf(folder, target, mixture("q8_0"), threads=2).summary
    assert summary.rounded_again == {}
    checkpoint = open_model(target, models)
    models.build(checkpoint.card, ReferenceOps(), checkpoint.source)


def test_what_cannot_be_said_writes_nothing(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "new.gguf"
    vocabulary = json.loads(tokenizer_json())
    vocabulary["normalizer"] = {"type": "Lowercase"}
    (folder / "tokenizer.json").write_text(json.dumps(vocabulary))
    with pytest.raises(Unsupported, match="normalizer"):
        write_gguf(folder, target, mixture("q8_0"))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(PagemillError, match="no tokenizer"):
        write_gguf(folder, target, mixture("q8_0"))
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_network_is_checked_without_its_weights(folder: Path) -> None:
    source = open_model(folder, models).source.outline()
    hidden = source.keys.whole("embedding_length", 1, 99)
    weight = source.matrix(("token_embd", 96), k=hidden)
    assert _NoWeights().upload(weight).strides == (0, 0)


def test_an_encoder(tmp_path: Path) -> None:
    target = tmp_path / "new.gguf"
    write_gguf(GOLDEN / "encoders" / "bert", target, mixture("f16"))
    with GGUFFile.open(target) as file:
        assert file.metadata["bert.attention.causal"] is False
        assert file.metadata["bert.pooling_type"] == 1
        assert file.metadata["tokenizer.ggml.model"] == "bert"
        own = Tokenizer.from_folder(GOLDEN / "encoders" / "bert")
        new = Tokenizer.from_gguf(file.metadata)
    assert new.encode_pair("some words", "more") == own.encode_pair("some words", "more")
    assert open_model(target, models).card.pooling == "mean"
