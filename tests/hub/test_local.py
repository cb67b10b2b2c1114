"""Paths that are models: files, split files, folders; and what is none, without waiting."""

import os
from pathlib import Path

import pytest

from pagemill import hub
from pagemill.errors import InvalidRequest
from pagemill.hub.local import look, name_from
from pagemill.hub.store import Store
from tests.hub.hf import BESIDE, NEEDED, SHARDS

GGUF = b"GGUF" + bytes(96)


def lay(folder: Path, *names: str, body: bytes = GGUF) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(body)
    return folder


def test_a_file(tmp_path: Path, store: Store) -> None:
    file = tmp_path / "x.gguf"
    assert hub.resolve(str(file), store) is None
    file.write_bytes(GGUF)
    model = hub.resolve(str(file), store)
    assert model is not None
    assert (model.path, model.size, model.digest, model.source) == (file, 100, "", "file")
    assert str(model.name) == str(file)
    assert hub.resolve("smollm2", store) is None
    with pytest.raises(InvalidRequest):
        hub.resolve(str(file), store, allow_files=False)


def test_a_file_by_its_content_where_the_name_does_not_tell(tmp_path: Path, store: Store) -> None:
    blob = lay(tmp_path, "sha256-0a").joinpath("sha256-0a")
    model = hub.resolve(str(blob), store)
    assert model is not None and model.path == blob
    blob.write_bytes(b"not it")
    with pytest.raises(InvalidRequest, match="does not begin with GGUF"):
        hub.resolve(str(blob), store)


def test_a_folder_of_safetensors(tmp_path: Path, store: Store) -> None:
    for name, body in {**NEEDED, **BESIDE}.items():
        lay(tmp_path / "m", name, body=body)
    model = hub.resolve(f"{tmp_path}/m", store)
    assert model is not None
    assert model.path == tmp_path / "m"
    found = look(tmp_path / "m")
    assert found is not None
    assert (set(found.paths), found.kind, found.size) == (set(NEEDED), "safetensors", model.size)
    assert model.size == sum(len(body) for body in NEEDED.values())
    assert str(name_from(found)) == "m"


def test_the_home_folder_may_be_written_as_a_tilde(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    lay(tmp_path / "models", "x.gguf")
    for text in ("~/models/x.gguf", "~/models"):
        model = hub.resolve(text, store)
        assert model is not None and model.path == tmp_path / "models/x.gguf"


def test_a_relative_folder(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    lay(tmp_path / "m", "config.json", "model.safetensors")
    monkeypatch.chdir(tmp_path)
    for text in ("./m", f"../{tmp_path.name}/m"):
        model = hub.resolve(text, store)
        assert model is not None and model.path.samefile(tmp_path / "m")
    monkeypatch.chdir(tmp_path / "m")
    model = hub.resolve(".", store)
    assert model is not None and model.path.samefile(tmp_path / "m")


def test_a_split_model_is_opened_at_its_first_file(tmp_path: Path, store: Store) -> None:
    names = [f"m-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    lay(tmp_path, *names, "m-00001-of-00002.gguf", "other.gguf")
    for name in names:
        model = hub.resolve(str(tmp_path / name), store)
        assert model is not None
        assert (model.path.name, model.size) == (names[0], 300)
    with pytest.raises(InvalidRequest, match="split into 2 files, 1 of them"):
        hub.resolve(str(tmp_path / "m-00001-of-00002.gguf"), store)


@pytest.mark.parametrize(
    ("names", "opened"),
    [
        (["only.gguf", "README.md"], "only.gguf"),
        (["only.gguf", "mmproj-F16.gguf"], "only.gguf"),
        (["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"], "a-00001-of-00002.gguf"),
        (["config.json", "model.safetensors", "x.gguf"], ""),
        (["config.json", "2_Dense/model.safetensors", SHARDS[0]], ""),
    ],
)
def test_what_is_opened_of_a_folder(tmp_path: Path, names: list[str], opened: str) -> None:
    found = look(lay(tmp_path / "m", *names))
    assert found is not None
    assert found.path == tmp_path / "m" / opened


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "is no model: a folder needs"),
        (["config.json"], "is no model"),
        (["config.json", "pytorch_model.bin"], "is no model"),
        (["model.safetensors"], "is no model"),
        (["a.gguf", "b.gguf"], "holds 2 models, name one: a.gguf, b.gguf"),
        (["a-00001-of-00002.gguf"], "1 of them are there"),
        (["mmproj.gguf"], "is no model"),
    ],
)
def test_folders_that_are_no_model(tmp_path: Path, names: list[str], message: str) -> None:
    (tmp_path / "m").mkdir()
    with pytest.raises(InvalidRequest, match=message):
        look(lay(tmp_path / "m", *names))


def test_strange_things_are_refused_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop.gguf").symlink_to("loop.gguf")
    (tmp_path / "gone.gguf").symlink_to("nowhere")
    for name in ("pipe.gguf", "pipe", "loop.gguf", "gone.gguf"):
        with pytest.raises(InvalidRequest, match="neither a file nor a folder"):
            look(tmp_path / name)
    with pytest.raises(InvalidRequest, match="neither a file nor a folder"):
        look(Path("/dev/zero"))
    folder = tmp_path / "m"
    folder.mkdir()
    os.mkfifo(folder / "model.safetensors")
    os.mkfifo(folder / "x.gguf")
    (folder / "config.json").write_bytes(b"{}")
    with pytest.raises(InvalidRequest, match="is no model"):
        look(folder)


def test_a_folder_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pagemill.hub.local.MAX_ENTRIES", 5)
    lay(tmp_path, *(f"{n}.txt" for n in range(6)))
    with pytest.raises(InvalidRequest, match="more than 5 files"):
        look(tmp_path)


def test_the_size_of_a_sparse_file_costs_nothing(tmp_path: Path) -> None:
    with open(tmp_path / "huge.gguf", "wb") as file:
        file.write(GGUF)
        file.truncate(1 << 40)
    found = look(tmp_path)
    assert found is not None and found.size == 1 << 40
