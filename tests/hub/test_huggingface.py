"""Repositories of safetensors become folders, at one commit; refusals say what to do."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from pagemill import hub
from pagemill.errors import DownloadError, NotFound, PagemillError, UnknownModel, Unsupported
from pagemill.hub.catalogue import Catalogue, Entry, HubSource
from pagemill.hub.download import PullProgress, pull
from pagemill.hub.manifests import StoredFile
from pagemill.hub.names import Name
from pagemill.hub.remotes import Remotes
from pagemill.hub.store import Store
from tests.hub.fake import Fake, model_bytes
from tests.hub.hf import (
    BESIDE,
    COMMIT,
    FAST,
    LISTING,
    NEEDED,
    SHARDS,
    asked_commits,
    content,
    get,
    offer,
    place,
    refuse,
    row,
)

pytestmark = pytest.mark.usefixtures("fast_disk")

DATA = model_bytes(20_000)
OTHER = "beef" * 10


def test_exactly_what_is_needed_comes_into_a_folder(fake: Fake, store: Store) -> None:
    offer(fake, {**NEEDED, **BESIDE})
    seen: list[PullProgress] = []
    model = get(fake, store, progress=seen.append)
    assert content(model.path) == NEEDED
    assert str(model.name) == "hf.co/org/repo"
    assert model.size == sum(len(body) for body in NEEDED.values())
    assert model.source == f"hf.co/org/repo@{COMMIT}"
    assert asked_commits(fake) == {COMMIT}
    assert store.verify() == []
    assert store.list() == [model]
    assert hub.resolve("org/repo", store) == model
    assert seen[-1].status == "success"
    assert seen[-1].completed == seen[-1].total == model.size
    going = [step.completed for step in seen if step.status == "downloading"]
    assert going == sorted(going)


def test_the_disk_holds_each_byte_once(fake: Fake, store: Store) -> None:
    offer(fake, NEEDED)
    offer(fake, {**NEEDED, "config.json": b'{"changed": 1}'}, repo="org/tuned")
    first, second = get(fake, store), get(fake, store, "org/tuned")
    assert fake.count(place(SHARDS[0], repo="org/tuned")) == 0
    assert (first.path / SHARDS[0]).samefile(second.path / SHARDS[0])
    blobs = {path.stat().st_ino for path in (store.home / "blobs").iterdir()}
    assert {path.stat().st_ino for path in first.path.iterdir()} <= blobs
    store.remove(first.name)
    assert store.list() == [second]
    assert store.verify() == []
    assert content(second.path)[SHARDS[0]] == NEEDED[SHARDS[0]]
    store.remove(second.name)
    assert [*(store.home / "blobs").iterdir(), *(store.home / "folders").iterdir()] == []


def test_pulling_again_fetches_what_changed_and_sweeps_what_went(fake: Fake, store: Store) -> None:
    offer(fake, NEEDED)
    first = get(fake, store)
    requests = len(fake.asked)
    assert get(fake, store).path == first.path
    assert len(fake.asked) == requests + 2  # the list, and the index that says what else
    newer = {**NEEDED, SHARDS[1]: DATA}
    offer(fake, newer, commit=OTHER)
    second = get(fake, store)
    assert content(second.path) == newer
    assert second.source.endswith(OTHER)
    assert [p for p, _ in fake.asked if p.startswith(place("", OTHER))][1:] == [
        place(SHARDS[1], OTHER)
    ]
    assert not first.path.exists()
    assert len(list((store.home / "blobs").iterdir())) == len({*newer.values()})


@pytest.mark.parametrize("revision", ["v1.0", "refs/pr/3", COMMIT])
def test_a_revision_is_resolved_once_and_used_for_every_file(
    fake: Fake, store: Store, revision: str
) -> None:
    offer(fake, NEEDED, revision=revision, commit=OTHER)
    model = get(fake, store, f"org/repo@{revision}")
    assert str(model.name) == f"hf.co/org/repo@{revision}"
    assert asked_commits(fake) == {OTHER}
    assert sum("/api/" in path for path, _ in fake.asked) == 1
    assert hub.resolve(f"org/repo@{revision}", store) == model
    assert hub.resolve("org/repo", store) is None


def test_a_folder_of_a_repository(fake: Fake, store: Store) -> None:
    inside = {f"sub/folder/{path}": body for path, body in NEEDED.items()}
    offer(fake, {**inside, "config.json": b"other", "model.safetensors": DATA})
    assert content(get(fake, store, "org/repo/sub/folder").path) == NEEDED
    assert set(content(get(fake, store).path)) == {"config.json", "model.safetensors"}
    with pytest.raises(NotFound, match="org/repo/none has no files"):
        get(fake, store, "org/repo/none")


@pytest.mark.parametrize(
    ("files", "kept"),
    [
        (["model.safetensors", "consolidated.safetensors"], ["model.safetensors"]),
        (["a.safetensors", "b.safetensors"], ["a.safetensors", "b.safetensors"]),
        (["consolidated.safetensors"], ["consolidated.safetensors"]),
        (["model.safetensors", "modules.json", "1_Pooling/config.json"],) * 2,
        (["model.safetensors", "sentence_bert_config.json", "quant_config.json"],) * 2,
        (
            ["model.safetensors", "2_Dense/model.safetensors", "2_Dense/config.json", "2_Dense/x"],
            ["model.safetensors", "2_Dense/model.safetensors", "2_Dense/config.json"],
        ),
        (["model.safetensors", "quantize_config.json", "tokenizer.model", "tekken.json"],) * 2,
        (["model.safetensors", "LICENCE.md", "NOTICE", "license.txt", "licenses.py"],
         ["model.safetensors", "LICENCE.md", "NOTICE", "license.txt"]),
    ],
)  # fmt: skip
def test_what_belongs_to_a_model(
    fake: Fake, store: Store, files: list[str], kept: list[str]
) -> None:
    offer(fake, {path: path.encode() * 9 for path in ["config.json", *files]})
    assert set(content(get(fake, store).path)) == {"config.json", *kept}


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        (["pytorch_model.bin", "config.json"], Unsupported, "supported: safetensors and GGUF"),
        (["model.pt"], Unsupported, r"model\.pt.*safetensors"),
        (["model.safetensors"], Unsupported, r"no config\.json"),
        (["README.md"], NotFound, "neither safetensors nor GGUF"),
        ([], NotFound, "no files"),
        (["mmproj-F16.gguf"], NotFound, "no GGUF file of a model"),
    ],
)
def test_repositories_without_a_model(
    fake: Fake, store: Store, files: list[str], error: type[PagemillError], message: str
) -> None:
    offer(fake, dict.fromkeys(files, b"x"))
    with pytest.raises(error, match=message):
        get(fake, store)
    assert not store.home.exists()


GATED = refuse(401, "GatedRepo", "Access to model org/repo is restricted", unless="hf_good")


def test_a_gated_repository_names_the_page_and_the_variable(fake: Fake, store: Store) -> None:
    offer(fake, NEEDED)
    fake.faults[place("config.json")] = GATED
    for token in ("", "hf_wrong"):
        with pytest.raises(DownloadError, match="is gated: open the page") as caught:
            get(fake, store, token=token)
        assert "https://huggingface.co/org/repo" in caught.value.message
        assert "HF_TOKEN" in caught.value.message
        assert "hf_wrong" not in caught.value.message
        assert store.list() == []
    fake.faults[LISTING] = GATED
    with pytest.raises(DownloadError, match="is gated"):
        get(fake, store)
    assert content(get(fake, store, token="hf_good").path) == NEEDED


@pytest.mark.parametrize(
    ("fault", "where", "error", "message"),
    [
        (refuse(403, "GatedRepo"), LISTING, DownloadError, "is gated"),
        (refuse(401, "RepoNotFound"), LISTING, NotFound, "does not exist, or is private"),
        (refuse(404, "RepoNotFound"), LISTING, NotFound, "does not exist, or is private"),
        (refuse(401), LISTING, NotFound, "set HF_TOKEN"),
        (
            refuse(401, words="Invalid credentials in Authorization header"),
            LISTING, DownloadError, "does not know the token in HF_TOKEN",
        ),
        (refuse(404, "RevisionNotFound"), LISTING, NotFound, "no revision 'main'"),
        (refuse(404, "EntryNotFound"), place(SHARDS[0]), NotFound, f"no file '{SHARDS[0]}'"),
        (refuse(403, words="Forbidden: fine-grained"), LISTING, DownloadError, "fine-grained"),
        (refuse(403), LISTING, DownloadError, "may not be read"),
        (refuse(451), LISTING, DownloadError, "answered 451"),
        (refuse(403, words="a\x1b[31m\x07é" + "b" * 900), LISTING, DownloadError, "may not"),
    ],
)  # fmt: skip
def test_each_refusal_has_its_own_words(
    fake: Fake, store: Store, fault: Any, where: str, error: type[PagemillError], message: str
) -> None:
    offer(fake, NEEDED)
    fake.faults[where] = fault
    with pytest.raises(error, match=message) as caught:
        get(fake, store, token="hf_secret")
    said = caught.value.message
    assert said.isprintable() and said.isascii() and len(said) < 500
    assert "hf_secret" not in said
    assert store.list() == []
    del fake.faults[where]
    assert content(get(fake, store).path) == NEEDED


def test_offline_nothing_is_connected_to(
    fake: Fake, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(fake, NEEDED)
    model = get(fake, store)
    asked = len(fake.asked)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a connection was attempted")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, never)
    monkeypatch.setattr(socket, "getaddrinfo", never)
    monkeypatch.setattr(socket, "create_connection", never)
    remotes = Remotes(hf_endpoint=fake.url, index_url=f"{fake.url}/simple", offline=True)
    kept = pull(Name.parse("org/repo"), store, remotes=remotes, timing=FAST)
    assert kept.path == model.path
    assert kept.source == model.source
    for text in ("org/other", "org/repo@v2", "smollm2"):
        with pytest.raises(DownloadError, match="offline mode is on"):
            pull(Name.parse(text), store, remotes=remotes, timing=FAST)
    (model.path / SHARDS[0]).write_bytes(b"damaged")
    with pytest.raises(DownloadError, match="offline mode is on"):
        pull(Name.parse("org/repo"), store, remotes=remotes, timing=FAST)
    assert len(fake.asked) == asked


@pytest.mark.parametrize("path", [SHARDS[0], "config.json", "model.safetensors.index.json"])
def test_a_damaged_file_is_found_and_repaired_by_the_next_pull(
    fake: Fake, store: Store, path: str
) -> None:
    offer(fake, NEEDED)
    model = get(fake, store)
    damaged = bytearray(NEEDED[path])
    damaged[3] ^= 1
    (model.path / path).write_bytes(damaged)
    [found] = store.verify()
    assert (found.name, path in found.reason) == ("hf.co/org/repo", True)
    assert content(get(fake, store).path) == NEEDED
    assert store.verify() == []


def test_a_name_that_was_cut_from_its_blob_is_tied_again(fake: Fake, store: Store) -> None:
    offer(fake, NEEDED)
    model = get(fake, store)
    (model.path / SHARDS[1]).unlink()
    assert store.list() == []
    assert hub.resolve("org/repo", store) is None
    asked = len(fake.asked)
    assert content(get(fake, store).path) == NEEDED
    assert len(fake.asked) == asked + 2
    # Bytes behind the name that are not the blob's, of the same length.
    (model.path / SHARDS[1]).unlink()
    (model.path / SHARDS[1]).write_bytes(b"?" * len(NEEDED[SHARDS[1]]))
    assert [damage.name for damage in store.verify()] == ["hf.co/org/repo"]
    assert content(get(fake, store).path) == NEEDED


def test_a_file_system_without_hard_links(
    fake: Fake, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse_link(*_: object, **__: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse_link)
    offer(fake, NEEDED)
    model = get(fake, store)
    assert content(model.path) == NEEDED
    assert (model.path / "config.json").is_symlink()
    assert store.verify() == []
    outside = store.home.parent / "outside"
    outside.write_bytes(NEEDED[SHARDS[0]])
    (model.path / SHARDS[0]).unlink()
    (model.path / SHARDS[0]).symlink_to(outside)
    assert store.list() == []
    get(fake, store)
    assert store.verify() == []
    assert outside.exists()


def entry_of(sources: tuple[HubSource, ...], **files: bytes) -> Entry:
    stored = [
        StoredFile(path.replace("_", "."), str(row("x.gguf", body)["lfs"]["sha256"]), len(body))
        for path, body in files.items()
    ]
    return Entry(Name.parse("m"), (), "", "MIT", "folder", tuple(stored), sources)


def test_a_catalogue_entry_on_the_hub_must_have_the_pinned_bytes(fake: Fake, store: Store) -> None:
    offer(fake, {"model.safetensors": DATA, "config.json": b"{}"})
    remotes = Remotes(hf_endpoint=fake.url)
    source = HubSource("org/repo", "main")
    wrong = (
        ({"model_safetensors": DATA[::-1], "config_json": b"{}"}, "another model.safetensors"),
        ({"model_safetensors": DATA, "config_json": b"[]"}, "config.json has sha256"),
        ({"model_safetensors": DATA, "config_json": b"{} "}, r"another config.json"),
        ({"model_safetensors": DATA, "other_json": b"{}"}, "no file other.json"),
    )
    for files, message in wrong:
        catalogue = Catalogue((entry_of((source,), **files),))
        with pytest.raises(DownloadError, match=message):
            pull(Name.parse("m"), store, remotes=remotes, catalogue=catalogue, timing=FAST)
        assert store.list() == []
    right = entry_of((source,), model_safetensors=DATA, config_json=b"{}")
    model = pull(right.name, store, remotes=remotes, catalogue=Catalogue((right,)), timing=FAST)
    assert content(model.path) == {"model.safetensors": DATA, "config.json": b"{}"}


def test_the_next_source_is_used_when_one_has_other_bytes(fake: Fake, store: Store) -> None:
    offer(fake, {"model.safetensors": DATA[::-1], "config.json": b"{}"}, repo="bad/repo")
    offer(fake, {"model.safetensors": DATA, "config.json": b"{}"})
    sources = tuple(HubSource(repo, "main") for repo in ("no/repo", "bad/repo", "org/repo"))
    entry = entry_of(sources, model_safetensors=DATA, config_json=b"{}")
    remotes = Remotes(hf_endpoint=fake.url)
    model = pull(entry.name, store, remotes=remotes, catalogue=Catalogue((entry,)), timing=FAST)
    assert model.source == f"hf.co/org/repo@{COMMIT}"
    entry = entry_of(sources[:2], model_safetensors=b"else", config_json=b"{}")
    with pytest.raises(DownloadError, match=r"could not be fetched: .*no/repo.*; .*bad/repo"):
        pull(entry.name, store, remotes=remotes, catalogue=Catalogue((entry,)), timing=FAST)


def test_unknown_short_names_say_how_repositories_are_named(store: Store) -> None:
    with pytest.raises(UnknownModel, match="named org/repo"):
        pull(Name.parse("qwen9"), store)


def test_a_removed_blob_is_fetched_again_before_the_model_is_listed(
    fake: Fake, store: Store, tmp_path: Path
) -> None:
    offer(fake, NEEDED)

    def remove_once(step: PullProgress) -> None:
        blobs = list((store.home / "blobs").iterdir()) if store.home.exists() else []
        if len(blobs) == len({*NEEDED.values()}) and not (tmp_path / "done").exists():
            (tmp_path / "done").touch()
            blobs[0].unlink()

    model = get(fake, store, progress=remove_once)
    assert content(model.path) == NEEDED
    assert store.verify() == []


def test_index_lists_only_what_is_there(fake: Fake, store: Store) -> None:
    index = json.dumps({"weight_map": {"a": "elsewhere.safetensors"}}).encode()
    offer(fake, {**NEEDED, "model.safetensors.index.json": index})
    with pytest.raises(DownloadError, match="which is not there"):
        get(fake, store)
