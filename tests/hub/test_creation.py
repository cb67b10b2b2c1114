"""Models made from others: shared blobs, names that are free, and nothing left when it fails."""

from pathlib import Path

import pytest

from pagemill.errors import InvalidRequest, UnknownModel
from pagemill.hub import creation
from pagemill.hub.imports import copy_in, register
from pagemill.hub.local import look
from pagemill.hub.names import Name
from pagemill.hub.store import Store, StoredModel
from tests.hub.fake import model_bytes

pytestmark = pytest.mark.usefixtures("fast_disk")

DATA = b"GGUF" + model_bytes(5_000)
SETTINGS = "pagemill.json"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    place = tmp_path / "other.gguf"
    place.write_bytes(DATA)
    return place


def quiet(done: int, total: int) -> None:
    pass


def stored(store: Store, file: Path, name: str = "base:1b") -> StoredModel:
    model = look(file)
    assert model is not None
    return copy_in(store, Name.parse(name), model, "test")


def made(store: Store, base: StoredModel, text: str, raw: bytes = b"{}") -> StoredModel:
    name = creation.new_name(store, text)
    files, entry = creation.files_of(store, base, name, SETTINGS, quiet)
    files.append(creation.take_bytes(store, name, SETTINGS, raw))
    return creation.add(store, name, files, entry, f"created from {base.name}")


def blobs(store: Store) -> int:
    return len(list((store.home / "blobs").iterdir()))


def test_blobs_are_shared_and_each_goes_with_its_last_model(store: Store, file: Path) -> None:
    base = stored(store, file)
    one = made(store, base, "one", b'{"a": 1}')
    two = made(store, one, "two", b'{"a": 2}')
    assert blobs(store) == 3  # the weights once, and two small files
    for model in (one, two):
        assert model.path.read_bytes() == DATA
    assert (two.path.parent / SETTINGS).read_bytes() == b'{"a": 2}'
    assert two.source == "created from one"
    assert [model.name.model for model in sorted(store.list(), key=str)] == ["base", "one", "two"]
    store.remove(base.name)
    store.remove(one.name)
    assert blobs(store) == 2
    assert (two.path.read_bytes(), store.verify()) == (DATA, [])
    store.remove(two.name)
    assert blobs(store) == 0
    assert not list((store.home / "partial").iterdir())


def test_what_lies_elsewhere_is_copied_in(store: Store, file: Path) -> None:
    model = look(file)
    assert model is not None
    base = register(store, Name.parse("linked"), model, "test")
    one = made(store, base, "one")
    file.unlink()
    assert one.path.read_bytes() == DATA
    with pytest.raises(UnknownModel, match="there is no file or folder"):
        made(store, base, "two")


def test_without_settings_it_is_the_same_blob(store: Store, file: Path) -> None:
    base = stored(store, file)
    name = creation.new_name(store, "same")
    files, entry = creation.files_of(store, base, name, SETTINGS, quiet)
    same = creation.add(store, name, files, entry, "")
    assert (same.path, same.digest) == (base.path, base.digest)


def test_a_new_file_is_taken_or_gone(store: Store) -> None:
    name = creation.new_name(store, "new")
    with creation.new_file(store, name) as place:
        place.write_bytes(DATA)
        files = [creation.take_file(store, place)]
    assert creation.add(store, name, files, creation.NEW_FILE, "").path.read_bytes() == DATA
    with pytest.raises(ZeroDivisionError), creation.new_file(store, name) as place:
        place.write_bytes(DATA)
        raise ZeroDivisionError
    assert not place.exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("base:1b", "base:1b is listed already; choose another"),
        ("smollm2", "smollm2 is a name of the catalogue"),
        ("org/repo", "is a repository's name"),
        ("./file.gguf", "files and folders are named on the command line only"),
        ("a b", "its parts are letters"),
    ],
)
def test_names_that_are_taken(store: Store, file: Path, name: str, message: str) -> None:
    stored(store, file)
    with pytest.raises(InvalidRequest) as caught:
        creation.new_name(store, name)
    assert message in caught.value.message


def test_who_was_faster_keeps_the_name(store: Store, file: Path) -> None:
    base = stored(store, file)
    name = creation.new_name(store, "mine")
    made(store, base, "mine")
    with pytest.raises(InvalidRequest, match="mine is listed already"):
        creation.add(store, name, [], "", "")
