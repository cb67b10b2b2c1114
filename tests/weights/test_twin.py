"""Folders as GGUF: tensors and settings are those of the files that transformers' own stand for."""

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest

from pagemill import models
from pagemill.errors import BadModelFile, Unsupported
from pagemill.weights import formats
from pagemill.weights.gguf import GGUFFile
from pagemill.weights.twin import REALS, _Desk, open_twin

GOLDEN = Path(__file__).parent.parent / "golden"
FOLDERS = sorted(
    path.parent for path in (*GOLDEN.glob("*/config.json"), *GOLDEN.glob("encoders/*/config.json"))
)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_row_is_where_gguf_has_it(folder: Path) -> None:
    twin = open_twin(folder, models, "twin")
    with GGUFFile.open(folder / "model.gguf") as file:
        assert {tensor.name for tensor in twin.tensors} == set(file.tensors)
        for tensor in twin.tensors:
            info = file.tensors[tensor.name]
            assert tensor.shape == info.shape or "ssm_" in tensor.name
            count = int(np.prod(tensor.shape[:-1]))
            expected = formats.get(info.format).unpack(file.data(tensor.name).reshape(1, -1))
            expected = expected.reshape(count, -1)
            whole = formats.get(tensor.format).unpack(tensor.raw().reshape(count, -1))
            assert np.array_equal(whole, expected), tensor.name
            rows = [tensor.rows(n, min(n + 7, count)) for n in range(0, count, 7)]
            assert np.array_equal(np.concatenate(rows), expected), tensor.name
        for key, value in file.metadata.items():
            if not key.startswith(("general.", "tokenizer.")) and "rope.scaling." not in key:
                assert key in twin.values, key
                short = key.split(".", 1)[1]
                assert isinstance(value, float) == (short in REALS), key
                if not isinstance(value, memoryview):
                    same_type = twin.values[key][:4] == file.encoded(key)[:4]
                    assert same_type, key


class Counted:
    """A tensor that tells whether another is in memory while it is read."""

    def __init__(self, alive: "list[weakref.ref[np.ndarray]]") -> None:
        self.alive = alive

    def read(self, expert: int | None = None) -> "tuple[str, np.ndarray]":
        gc.collect()
        assert all(other() is None for other in self.alive), "one is held while the next is read"
        rows = np.zeros((2, 4), np.uint8)
        self.alive.append(weakref.ref(rows))
        return "F32", rows


def test_one_tensor_is_held_at_a_time() -> None:
    desk, alive = _Desk(), []
    for tensor in (Counted(alive), Counted(alive)):
        for expert in (None, 0, 1):
            first = desk.read(tensor, expert)[1]  # type: ignore[arg-type]
            assert desk.read(tensor, expert)[1] is first  # type: ignore[arg-type]
            del first
    assert len(alive) == 6


def test_a_quantized_folder_is_refused(tmp_path: Path) -> None:
    for name in ("model.safetensors", "config.json"):
        (tmp_path / name).write_bytes((GOLDEN / "llama" / name).read_bytes())
    raw = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(raw.replace(b'"BF16"', b'"I16" ', 1))
    with pytest.raises(Unsupported, match="is I16: the folder is quantized already"):
        open_twin(tmp_path, models, "twin")


def test_settings_of_no_type_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to(GOLDEN / "llama" / "model.safetensors")
    config = (GOLDEN / "llama" / "config.json").read_text()
    (tmp_path / "config.json").write_text(
        config.replace('"hidden_act": "silu"', '"hidden_act": {"a": 1}')
    )
    with pytest.raises(BadModelFile, match="hidden_act"):
        open_twin(tmp_path, models, "twin")
