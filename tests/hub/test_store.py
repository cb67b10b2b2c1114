"""What the store promises: listed means whole, nothing outside the folder, one writer per blob."""

import hashlib
import json
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from pagemill.errors import InvalidRequest, PagemillError, UnknownModel
from pagemill.hub.checks import file_sha256
from pagemill.hub.names import Name
from pagemill.hub.store import STALE_S, Store, StoredModel

BYTES = b"weights" * 1000
DIGEST = hashlib.sha256(BYTES).hexdigest()


def put(store: Store, text: str, data: bytes = BYTES) -> StoredModel:
    digest = hashlib.sha256(data).hexdigest()
    store.prepare()
    with store.lock(digest):
        if not store.blob_path(digest).exists():
            store.partial_path(digest).write_bytes(data)
            store.publish(digest, store.partial_path(digest))
        return store.add(Name.parse(text), digest, "test")


def test_an_absent_store_is_empty_and_is_not_made_by_reading(store: Store) -> None:
    assert store.list() == []
    assert store.find(Name.parse("smollm2")) is None
    assert store.verify() == []
    assert not store.home.exists()


def test_add_find_list(store: Store) -> None:
    model = put(store, "b:1")
    put(store, "a")
    assert model.path.read_bytes() == BYTES
    assert (model.digest, model.size, model.source) == (f"sha256:{DIGEST}", len(BYTES), "test")
    assert store.find(Name.parse("B:1")) == model
    assert [str(m.name) for m in store.list()] == ["a", "b:1"]
    assert list((store.home / "partial").iterdir()) == []


def test_a_blob_stays_while_a_name_needs_it(store: Store) -> None:
    put(store, "a")
    path = put(store, "b").path
    store.remove(Name.parse("a"))
    assert path.exists()
    store.remove(Name.parse("b"))
    assert not path.exists()
    assert store.list() == []


def test_removing_an_unknown_model_lists_what_is_there(store: Store) -> None:
    put(store, "here")
    with pytest.raises(UnknownModel, match="stored models: here"):
        store.remove(Name.parse("gone"))


@pytest.mark.parametrize(
    "digest",
    [
        "", "sha256:", "sha256-" + DIGEST, "SHA256:" + DIGEST, DIGEST[:-1], DIGEST + "0",
        DIGEST.upper(), "../" + DIGEST, "sha256:../../x", "%2e%2e%2f" + DIGEST[:55],
        DIGEST[:-1] + "\0", DIGEST + "\n", "g" * 64, "sha256:sha256:" + DIGEST,
    ],
    ids=ascii,
)  # fmt: skip
def test_only_64_lower_case_hex_digits_are_a_digest(store: Store, digest: str) -> None:
    for path in (store.blob_path, store.partial_path):
        with pytest.raises(InvalidRequest):
            path(digest)
    with pytest.raises(InvalidRequest), store.lock(digest):
        pass
    assert not store.home.exists()


def test_a_link_out_of_the_store_is_not_followed(store: Store, tmp_path: Path) -> None:
    put(store, "a")
    outside = tmp_path / "outside"
    outside.write_bytes(BYTES)
    blob = store.blob_path(DIGEST)
    blob.unlink()
    blob.symlink_to(outside)
    assert store.list() == []
    with pytest.raises(InvalidRequest, match="outside"):
        store.blob_path(DIGEST)
    assert outside.read_bytes() == BYTES


MANIFEST = {"schema": 1, "name": "a", "digest": f"sha256:{DIGEST}", "size": len(BYTES)}


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", "[" * 60_000, " " * 1_100_000, "\udcff", "<html>",
        *(json.dumps(MANIFEST | change) for change in (
            {"schema": 2}, {"schema": 3}, {"schema": "1"}, {"schema": True},
            {"name": 1}, {"name": "../x"}, {"name": "other"},
            {"name": "/etc/x.gguf"}, {"digest": "sha256:" + "0" * 64}, {"digest": "sha256:../x"},
            {"digest": None}, {"size": -1}, {"size": 1}, {"size": True}, {"size": 7000.0},
            {"modified": float("nan")}, {"modified": 1e300}, {"source": ["x"]},
        )),
    ],
)  # fmt: skip
def test_damaged_manifests_are_reported_and_not_listed(store: Store, text: str) -> None:
    put(store, "good", b"good")
    put(store, "a")
    path = store.home / "manifests" / f"{Name.parse('a').key}.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert [str(m.name) for m in store.list()] == ["good"]
    assert store.find(Name.parse("a")) is None
    [damage] = store.verify()
    assert damage.name in (path.name, "a")


def test_verify_finds_one_flipped_bit_and_a_cut_file_is_not_listed(store: Store) -> None:
    model = put(store, "a")
    data = bytearray(BYTES)
    data[1234] ^= 1
    model.path.write_bytes(data)
    assert [(d.name, d.reason) for d in store.verify()] == [("a", "the bytes on disk have changed")]
    model.path.write_bytes(BYTES[:-1])
    assert store.list() == []


def test_the_blob_is_synced_and_in_place_before_the_manifest_is(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.prepare()
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(handle: int) -> None:
        calls.append("sync " + Path(os.readlink(f"/proc/self/fd/{handle}")).parent.name)
        fsync(handle)

    def note_replace(source: Path, target: Path) -> None:
        calls.append("rename to " + Path(target).parent.name)
        replace(source, target)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to name the files of fsync calls")
    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    put(store, "a")
    assert calls == [
        "sync partial", "rename to blobs", "sync home",
        "sync partial", "rename to manifests", "sync home",
    ]  # fmt: skip


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_when_any_write_fails_the_old_model_still_works(
    store: Store, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    put(store, "a", b"old")
    real = getattr(os, failing)
    for at in range(4):
        count = iter(range(100))

        def fail(*args: object, at: int = at, count: "object" = count) -> None:
            if next(count) == at:  # type: ignore[call-overload]
                raise OSError(28, "No space left on device")
            real(*args)

        monkeypatch.setattr(os, failing, fail)
        try:
            with store.changing():
                put(store, "a", BYTES)
        except PagemillError as error:
            assert "No space left" in error.message
        monkeypatch.setattr(os, failing, real)
        assert store.verify() == []
        assert [str(m.name) for m in store.list()] == ["a"]
        put(store, "a", b"old")


def test_removing_from_a_store_that_cannot_be_written_is_one_clear_error(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, "a")

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(PagemillError, match="Read-only file system"):
        store.remove(Name.parse("a"))
    assert store.find(Name.parse("a")) is not None


def test_one_writer_at_a_time(store: Store) -> None:
    inside: list[int] = []
    most: list[int] = []

    def write() -> None:
        with store.lock(DIGEST):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.01)
            inside.pop()

    threads = [threading.Thread(target=write) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 5


def _hold(home: Path, ready: "multiprocessing.synchronize.Event") -> None:
    with Store(home).lock(DIGEST):
        ready.set()
        time.sleep(60)


def test_the_lock_of_a_killed_process_is_taken_over(store: Store) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_hold, args=(store.home, ready))
    process.start()
    assert ready.wait(20)
    waits: list[float] = []

    def waiting() -> None:
        if not waits:
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
        waits.append(time.monotonic())

    with store.lock(DIGEST, waiting):
        assert waits
    process.join()


def test_old_partial_files_are_swept(store: Store) -> None:
    store.prepare()
    old, young = store.partial_path("0" * 64), store.partial_path("1" * 64)
    old.write_bytes(b"x")
    young.write_bytes(b"x")
    long_ago = time.time() - STALE_S - 60
    os.utime(old, (long_ago, long_ago))
    store.prepare()
    assert not old.exists()
    assert young.exists()


def test_blobs_that_no_model_needs_are_swept_when_they_are_old(store: Store) -> None:
    kept = put(store, "a").path
    orphan, young = (store.blob_path(digit * 64) for digit in "01")
    long_ago = time.time() - STALE_S - 60
    for path in (kept, orphan, young):
        path.write_bytes(path.read_bytes() if path.exists() else b"of a pull that was given up")
        os.utime(path, None if path == young else (long_ago, long_ago))
    strange = store.home / "manifests/newer.json"
    strange.write_text('{"schema": 3}')
    store.prepare()
    assert orphan.exists()
    strange.unlink()
    store.prepare()
    assert [path.exists() for path in (kept, orphan, young)] == [True, False, True]


def test_file_sha256(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(BYTES)
    assert file_sha256(path) == DIGEST
