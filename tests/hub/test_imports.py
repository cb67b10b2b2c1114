"""Models that stay where they are: nothing is copied, nothing of others is deleted or changed."""

import hashlib
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from pagemill import hub
from pagemill.errors import BadModelFile, InvalidRequest, PagemillError, UnknownModel
from pagemill.hub.imports import copy_in, register
from pagemill.hub.local import LocalModel, look, name_from
from pagemill.hub.names import Name
from pagemill.hub.store import Store, StoredModel
from tests.hub.fake import Fake, model_bytes
from tests.hub.hf import NEEDED, content, get, offer

pytestmark = pytest.mark.usefixtures("fast_disk")

DATA = b"GGUF" + model_bytes(50_000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "other" / "m"
    place.mkdir(parents=True)
    for name, body in NEEDED.items():
        (place / name).write_bytes(body)
    return place


@pytest.fixture
def file(tmp_path: Path) -> Path:
    place = tmp_path / "other" / "My Model-Q4_0.gguf"
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(DATA)
    return place


def found(path: Path) -> LocalModel:
    model = look(path)
    assert model is not None
    return model


def put(store: Store, path: Path, text: str = "", sha256: str = "") -> StoredModel:
    model = found(path)
    return register(store, Name.parse(text) if text else name_from(model), model, "test", sha256)


def test_in_place_costs_no_disk_and_leaves_everything_as_it_is(
    store: Store, file: Path, folder: Path
) -> None:
    before = {path: path.stat() for path in file.parent.rglob("*")}
    one, many = put(store, file), put(store, folder, "many:1b")
    assert (str(one.name), one.path, one.size) == ("my-model-q4_0", file, len(DATA))
    assert (many.path, many.digest) == (folder, "")
    assert hub.resolve("my-model-q4_0", store) == one
    assert store.list() == [many, one]
    assert store.verify() == []
    used = [path for path in store.home.rglob("*") if path.is_file() and path.stat().st_size]
    assert {path.parent.name for path in used} == {"manifests"}
    store.remove(one.name)
    store.remove(many.name)
    assert store.list() == []
    after = {path: path.stat() for path in file.parent.rglob("*")}
    keys = ("st_ino", "st_size", "st_mtime_ns", "st_nlink", "st_mode")
    assert {p: [getattr(s, k) for k in keys] for p, s in before.items()} == {
        p: [getattr(s, k) for k in keys] for p, s in after.items()
    }


def test_what_went_or_changed_is_said_and_can_be_forgotten(
    store: Store, file: Path, folder: Path
) -> None:
    put(store, file, "one")
    put(store, folder, "many")
    shutil.rmtree(folder)
    with pytest.raises(UnknownModel, match=r"m/.* is gone; `pagemill rm many` forgets it"):
        hub.resolve("many", store)
    assert hub.resolve("many", store, allow_files=False) is None  # others learn no paths
    assert [str(model.name) for model in store.list()] == ["one"]
    assert [damage.name for damage in store.verify()] == ["many"]
    os.utime(file, (1, 1))
    with pytest.raises(UnknownModel, match="was changed after it was imported"):
        hub.resolve("one", store)
    for text in ("one", "many"):
        store.remove(Name.parse(text))
    assert hub.resolve("one", store) is None
    assert store.verify() == []
    assert file.exists()
    assert put(store, file, "one").path == file


def test_a_changed_byte_is_found_where_the_hash_is_known(store: Store, file: Path) -> None:
    model = put(store, file, "one", hashlib.sha256(DATA).hexdigest())
    assert model.digest == f"sha256:{hashlib.sha256(DATA).hexdigest()}"
    assert store.verify() == []
    times = (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    file.write_bytes(DATA[:-1] + b"?")
    os.utime(file, ns=times)
    [damage] = store.verify()
    assert (damage.name, str(file) in damage.reason) == ("one", True)


def test_a_split_model_in_place(store: Store, tmp_path: Path) -> None:
    for n in (1, 2):
        (tmp_path / f"m-0000{n}-of-00002.gguf").write_bytes(DATA[n:])
    model = put(store, tmp_path / "m-00002-of-00002.gguf")
    assert str(model.name) == "m"
    assert model.path == tmp_path / "m-00001-of-00002.gguf"
    (tmp_path / "m-00002-of-00002.gguf").unlink()
    with pytest.raises(UnknownModel, match="m-00002-of-00002"):
        hub.resolve("m", store)


def test_a_name_belongs_to_who_had_it(fake: Fake, store: Store, file: Path, folder: Path) -> None:
    put(store, file, "one")
    put(store, file, "one")  # again, the same
    with pytest.raises(InvalidRequest, match="one is listed already"):
        put(store, folder, "one")
    offer(fake, NEEDED)
    get(fake, store)
    with pytest.raises(InvalidRequest, match="listed already"):
        put(store, folder, "org/repo")
    with pytest.raises(InvalidRequest, match="is a path"):
        put(store, folder, "./x")
    # A pull is an order to have the repository: it takes the name over, and leaves the files.
    put(store, folder, "org/other")
    offer(fake, NEEDED, repo="org/other")
    assert get(fake, store, "org/other").path.is_relative_to(store.home)
    assert content(folder) == NEEDED


@pytest.mark.parametrize("kind", ["file", "folder", "split"])
def test_copies_are_the_stores_own(store: Store, file: Path, folder: Path, kind: str) -> None:
    place = {"file": file, "folder": folder, "split": file.parent / "m-00001-of-00002.gguf"}[kind]
    if kind == "split":
        for n in (1, 2):
            (file.parent / f"m-0000{n}-of-00002.gguf").write_bytes(DATA[n:])
    told: list[tuple[int, int]] = []
    model = copy_in(
        store, Name.parse("mine"), found(place), "test", lambda *step: told.append(step)
    )
    assert told[-1] == (model.size, model.size)
    assert model.path.is_relative_to(store.home)
    assert store.verify() == []
    shutil.rmtree(file.parent)
    assert hub.resolve("mine", store) == model
    if kind == "folder":
        assert content(model.path) == NEEDED
    elif kind == "split":
        assert (model.path.name, len(list(model.path.parent.iterdir()))) == (place.name, 2)
    else:
        assert (model.path.read_bytes(), model.path.parent.name) == (DATA, "blobs")
    assert list((store.home / "partial").iterdir()) == []


def test_a_copy_of_what_does_not_fit(
    store: Store, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(file, "r+b") as sparse:
        sparse.truncate(1 << 40)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(PagemillError, match="has 10 free"):
        copy_in(store, Name.parse("mine"), found(file), "test")
    assert put(store, file, "mine").size == 1 << 40


def test_a_file_that_changes_while_it_is_copied(store: Store, file: Path) -> None:
    def change(done: int, total: int) -> None:
        os.utime(file, (1, 1))

    with pytest.raises(BadModelFile, match="changed while it was copied"):
        copy_in(store, Name.parse("mine"), found(file), "test", change)
    assert store.list() == []


@pytest.mark.parametrize(
    "change",
    [
        '"place": "relative"', '"place": 7', '"stamps": []', '"stamps": [["../x", 1, 1]]',
        '"stamps": [["/x", 1, 1]]', '"stamps": [["", -1, 1]]', '"stamps": [["", 1]]',
        '"stamps": [["", 1, 1], ["", 1, 1]]', '"entry": "../x"', '"entry": "x"', '"sha256": "x"',
        '"stamps": 3', '"stamps": [[0, 1, 1]]',
    ],
)  # fmt: skip
def test_manifests_of_places_are_not_believed(store: Store, file: Path, change: str) -> None:
    put(store, file, "one")
    path = store.home / "manifests" / f"{Name.parse('one').key}.json"
    path.write_text(path.read_text().rstrip().removesuffix("}") + f", {change}}}")
    assert store.find(Name.parse("one")) is None
    assert [damage.name for damage in store.verify()] == [path.name]
    store.remove(Name.parse("one"))
    assert file.exists()
