"""A foreign folder from its settings and headers alone, and what is refused by name."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pagemill.cli.plan import memory_lines
from pagemill.cli.plan_lines import plan_lines
from pagemill.cli.show import show
from pagemill.config import EngineConfig, HubConfig, Settings
from pagemill.engine.plan import ENGINE_BYTES, SERVER_BYTES, TOKEN_BYTES
from pagemill.errors import BadModelFile, PagemillError, Unsupported
from pagemill.fallback import choice
from pagemill.fallback.folder import LIBRARY_BYTES, Foreign
from pagemill.runtime import open_as_asked, plan_for
from tests.fallback.folders import STABLELM, TENSORS, stablelm
from tests.weights.safetensors_writer import write_folder


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here gets as far as to import what it claims to have."""
    monkeypatch.setattr(choice, "LIBRARIES", ())


def test_sizes(tmp_path: Path) -> None:
    card = Foreign.open(stablelm(tmp_path / "stable")).card
    assert (card.name, card.architecture, card.through) == ("stable", "stablelm", "transformers")
    assert (card.layers, card.heads, card.kv_heads, card.head_dim) == (2, 4, 2, 4)
    assert (card.vocab_size, card.context_length, card.hidden_size) == (20, 512, 16)
    assert card.kv_elements == 2 * 2 * 2 * 4  # layers, keys and values, heads, size
    assert (card.parameters, card.weights_bytes) == (20 * 16 + 16, 20 * 16 * 2 + 16 * 4)
    assert card.quantization == "F16" and not card.pooling


def test_sizes_under_other_names(tmp_path: Path) -> None:
    old = {"n_layer": 3, "n_embd": 16, "n_head": 2, "n_positions": 64, "n_inner": 32}
    gone = dict.fromkeys(key for key in STABLELM if key.startswith(("num_", "hidden", "inter")))
    folder = stablelm(tmp_path / "old", **gone, max_position_embeddings=None, **old)
    card = Foreign.open(folder).card
    assert (card.layers, card.heads, card.kv_heads, card.head_dim) == (3, 2, 2, 8)
    assert (card.context_length, card.ffn_size) == (64, 32)
    one = Foreign.open(stablelm(tmp_path / "one", num_key_value_heads=None, multi_query=True))
    assert one.card.kv_heads == 1


def test_of_a_model_that_does_more_it_is_the_text_part(tmp_path: Path) -> None:
    folder = stablelm(tmp_path / "more", hidden_size=999, text_config={"hidden_size": 16})
    assert Foreign.open(folder).card.hidden_size == 16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"is_encoder_decoder": True}, "has an encoder and a decoder .*is_encoder_decoder"),
        ({"add_cross_attention": True}, "has attention to the states of an encoder"),
        ({"kv_lora_rank": 8}, "has compressed keys and values.*kv_lora_rank"),
        ({"index_topk": 2048}, "has an index of its own"),
        ({"layer_types": ["full_attention", "mamba"]}, "has layers of the kind 'mamba'"),
        ({"rope_scaling": {"type": "dynamic"}}, "has rotary angles of the kind 'dynamic'"),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "longrope"}}},
            "has rotary angles of the kind 'longrope'",
        ),
        ({"quantization_config": {"quant_method": "awq"}}, r"is quantized \('awq'\)"),
        ({"quantization_config": "\x1b[2J"}, r"is quantized \('\\x1b"),
    ],
)
def test_networks_that_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Unsupported, match=f"^'m': 'StableLmForCausalLM' {message}"):
        Foreign.open(stablelm(tmp_path / "m", **changes))


def test_kinds_of_layers_and_angles_that_are_taken(tmp_path: Path) -> None:
    kinds = ["full_attention", "sliding_attention", "chunked_attention"]
    Foreign.open(stablelm(tmp_path / "m", layer_types=kinds, rope_scaling={"rope_type": "yarn"}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": None}, "'num_hidden_layers': is missing"),
        ({"num_hidden_layers": 1 << 40}, "'num_hidden_layers': is 1099511627776, not in 1 to 4096"),
        ({"num_key_value_heads": 5}, "'num_key_value_heads': is 5, not in 1 to 4"),
        ({"head_dim": "8"}, "'head_dim': is a string"),
        ({"max_position_embeddings": 0}, "'max_position_embeddings': is 0, not in 1 to"),
        ({"vocab_size": True}, "'vocab_size': is True"),
        ({"model_type": None}, "'model_type': is missing"),
        ({"architectures": []}, "'architectures' does not name"),
    ],
)
def test_settings_that_are_wrong(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadModelFile, match=message):
        Foreign.open(stablelm(tmp_path / "m", **changes))


def test_tensors_that_are_refused(tmp_path: Path) -> None:
    odd = {**TENSORS, "odd": np.zeros(4, np.uint8)}
    folder = write_folder(tmp_path / "m", odd, STABLELM, {"odd": "F8_E4M3"})
    with pytest.raises(Unsupported, match=r"tensor 'odd' is F8_E4M3; .*takes F32, F16, BF16"):
        Foreign.open(folder)
    Foreign.open(write_folder(tmp_path / "m", odd, STABLELM, {"odd": "BOOL"}))
    none = {"odd": odd["odd"]}
    with pytest.raises(BadModelFile, match="no tensor holds fractions"):
        Foreign.open(write_folder(tmp_path / "m", none, STABLELM))


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    folder = stablelm(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(PagemillError, match=r"'pytorch_model\.bin' is never opened"):
        Foreign.open(folder)


def test_memory_follows_the_precision(tmp_path: Path) -> None:
    folder = stablelm(tmp_path / "m")
    stored, wide = Foreign.open(folder), Foreign.open(folder, "float32")
    assert (stored.dtype, wide.dtype) == ("float16", "float32")
    assert stored.footprint().weights_bytes == (20 * 16 + 16) * 2
    assert wide.footprint().kv_token_bytes == 2 * stored.footprint().kv_token_bytes == 32 * 4
    assert wide.footprint().weights[0].kept_as == "F32"
    assert not stored.footprint().exact


@pytest.mark.usefixtures("installed")
def test_the_plan_says_who_computes_and_that_it_is_estimated(tmp_path: Path) -> None:
    config = EngineConfig(threads=1, max_model_len=64, max_num_seqs=1)
    opened = open_as_asked(config, stablelm(tmp_path / "m"))
    assert isinstance(opened, Foreign)
    plan = plan_for(config, opened, "m")
    assert plan.backend == "transformers"
    assert plan.process_bytes == ENGINE_BYTES + SERVER_BYTES + TOKEN_BYTES * 20 + LIBRARY_BYTES
    lines = plan_lines("m", opened.card, plan)
    assert lines[0] == "m: stablelm, through transformers (fallback), 336 parameters, F16"
    assert "transformers backend, 1 threads" in lines[2] and lines[3].endswith("estimated")
    assert memory_lines(opened.card, opened.footprint(), plan)[-1].endswith("estimated")
    own = replace(opened.card, through="")
    assert plan_lines("m", own, plan)[0] == "m: stablelm, 336 parameters, F16"


@pytest.mark.usefixtures("installed")
def test_show_says_who_computes(tmp_path: Path) -> None:
    folder, settings = stablelm(tmp_path / "m"), Settings(hub=HubConfig(home=tmp_path / "home"))
    card = show(str(folder), settings, "card")
    assert "  architecture    stablelm, through transformers (fallback)\n" in card
    metadata = show(str(folder), settings, "metadata")
    assert f"{'stablelm.num_hidden_layers':<44}2" in metadata
