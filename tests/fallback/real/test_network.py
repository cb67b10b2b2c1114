"""Logits over pages against the library's own, and the networks that are refused once loaded."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from pagemill.errors import BadModelFile, Unsupported
from pagemill.fallback import trial
from pagemill.fallback.attention import Sees, _Pass
from pagemill.fallback.folder import Foreign
from pagemill.fallback.load import load
from pagemill.fallback.network import Network
from pagemill.fallback.trial import run_together, try_out
from tests.fallback.real.conftest import Made
from tests.fallback.real.networks import NETWORKS, logits_of, make

NUMBERS = np.random.default_rng(3)
TEXTS = [NUMBERS.integers(3, 96, size).astype(np.int32) for size in (23, 9, 1)]
WAYS: dict[str, Sequence[tuple[int, int, int]]] = {
    "whole": [(23, 0, 0), (0, 9, 0), (0, 0, 1)],
    "token by token": [(1, 0, 0)] * 23 + [(0, 1, 0)] * 9 + [(0, 0, 1)],
    "in chunks": [(5, 0, 0), (5, 0, 0), (5, 0, 0), (8, 0, 0), (0, 4, 0), (0, 5, 0), (0, 0, 1)],
    "together": [(10, 4, 0), (6, 1, 1), (6, 1, 0), (1, 3, 0)],
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_logits_are_the_librarys_however_tokens_come(kind: str, made: Made) -> None:
    folder = made(kind)
    network = load(Foreign.open(folder), threads=1)
    expected = [logits_of(folder, text.tolist()) for text in TEXTS]
    for way, chunks in WAYS.items():
        for ours, theirs in zip(run_together(network, TEXTS, chunks), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4, err_msg=f"{kind} {way}")


def test_only_sampled_rows_become_logits(made: Made) -> None:
    network = load(Foreign.open(made("stablelm")), threads=1)
    kv = network.new_kv(8, 4)
    step = trial._step(TEXTS[1:2], [np.arange(3, dtype=np.int32)], [(0, 0, 9)])
    whole = network(step, kv)
    for rows in ([], [8], [2, 5]):
        some = network(replace(step, out_rows=np.array(rows, np.int32)), kv)
        assert some.shape == (len(rows), 96)
        np.testing.assert_allclose(some, whole[rows], atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrower_weights_stay_near(dtype: str, made: Made) -> None:
    network = load(Foreign.open(made("stablelm"), dtype), threads=1)
    assert {one.dtype for one in network.module.parameters()} == {getattr(torch, dtype)}
    [ours] = run_together(network, TEXTS[:1], [(12,), (11,)])
    theirs = logits_of(made("stablelm"), TEXTS[0].tolist())
    apart = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
    assert 1e-5 < apart < 0.05


def test_the_trial_notices_a_broken_cache(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(Foreign.open(made("stablelm")))
    try_out(network, 96, "float32")
    history = _Pass._history
    monkeypatch.setattr(_Pass, "_history", lambda self, *of: history(self, *of).roll(1, dims=1))
    with pytest.raises(Unsupported, match="gives other logits with pages than without"):
        try_out(network, 96, "float32")


def test_the_trial_notices_a_window_that_is_not_seen(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Network(Foreign.open(made("olmo3")))
    monkeypatch.setattr(Sees, "__call__", lambda _, at, n: torch.arange(n)[None] <= at[:, None])
    with pytest.raises(Unsupported, match="gives other logits"):
        try_out(network, 96, "float32")


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("bloom", {}, "takes no positions from outside"),
        ("gptj", {"rotary_dim": 4}, "its attention does not go through transformers' attention in"),
        ("bert", {}, "its tokens do not see exactly themselves and those before them"),
        ("mamba", {}, "carries a state from token to token"),
        ("diffllama", {}, "a layer of it attends twice"),
    ],
)
def test_networks_that_pages_cannot_serve(
    kind: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = make(tmp_path / kind, kind, **changes)
    with pytest.raises(Unsupported, match=rf"^'{kind}': \w+ .*{message}"):
        load(Foreign.open(folder), threads=1)


def test_sizes_that_the_network_does_not_have(tmp_path: Path) -> None:
    folder = make(tmp_path / "persimmon", "persimmon")
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_key_value_heads": 2}))
    with pytest.raises(Unsupported, match=r"keeps 128 numbers .* config\.json speaks of 64"):
        load(Foreign.open(folder), threads=1)


def test_a_class_that_the_library_does_not_have(tmp_path: Path) -> None:
    folder = make(tmp_path / "stablelm", "stablelm")
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for changes in ({"architectures": ["AutoModel"]}, {"model_type": "made-up"}):
        path.write_text(json.dumps({**config, **changes}))
        with pytest.raises(Unsupported, match=r"is none that transformers 5.* writes text with$"):
            load(Foreign.open(folder), threads=1)


def test_code_of_the_folder_is_not_run(tmp_path: Path) -> None:
    folder = make(tmp_path / "stablelm", "stablelm")
    ran = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w').close()")
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["auto_map"] = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}
    config["_attn_implementation"] = config["attn_implementation"] = "someone/kernels"
    path.write_text(json.dumps(config))
    load(Foreign.open(folder), threads=1)  # the library's own class of that name
    path.write_text(json.dumps({**config, "architectures": ["EvilForCausalLM"]}))
    with pytest.raises(Unsupported, match="brings code of its own, which is never run"):
        load(Foreign.open(folder), threads=1)
    assert not ran.exists()


def test_tensors_must_be_all_there_and_no_others(tmp_path: Path) -> None:
    folder = make(tmp_path / "stablelm", "stablelm")
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = "model.layers.1.mlp.up_proj.weight"
    lacking = {key: value for key, value in tensors.items() if key != name}
    spare = np.zeros(48 * 32, np.float32)
    other = {**lacking, "model.layers.1.mlp.another.weight": spare}
    wrong = {**tensors, name: spare.reshape(32, 48)}
    more = {**tensors, "model.layers.1.mlp.extra.weight": np.zeros(4, np.float32)}
    for changed, error, message in (
        (lacking, BadModelFile, r"config\.json describes \d+ weights, the files have \d+"),
        (other, BadModelFile, rf"tensor '{name}' is missing"),
        (more, BadModelFile, "extra.weight' has no place in this network"),
        (wrong, BadModelFile, rf"tensor '{name}' has another shape than config\.json says"),
    ):
        save_file(changed, path)
        with pytest.raises(error, match=message):
            load(Foreign.open(folder), threads=1)


def test_no_memory_is_taken_for_weights_that_are_not_there(tmp_path: Path) -> None:
    folder = make(tmp_path / "stablelm", "stablelm")
    path = folder / "config.json"
    vast = {"vocab_size": 1 << 24, "hidden_size": 1 << 16, "num_hidden_layers": 64}  # 10 TB
    path.write_text(json.dumps({**json.loads(path.read_text()), **vast}))
    with pytest.raises(BadModelFile, match=r"config\.json describes \d{13} weights, the files"):
        load(Foreign.open(folder), threads=1)
