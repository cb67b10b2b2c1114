"""Repositories pulled, removed and killed at once: the store stays sound, and no byte is lost."""

import os
import random
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

import pagemill.hub.download as download
from pagemill.errors import UnknownModel
from pagemill.hub.names import Name
from pagemill.hub.store import MissingBlob, Store
from tests.hub.fake import Fake, Handler, model_bytes
from tests.hub.hf import INDEX, NEEDED, SHARDS, content, get, offer, place

SMALL = {
    "config.json": b'{"a": 1}',
    "model.safetensors.index.json": INDEX,
    SHARDS[0]: model_bytes(40_000),
    SHARDS[1]: model_bytes(30_000)[::-1],
}

KILLED = """
import os, signal, sys
from pathlib import Path
from pagemill.hub.download import pull
from pagemill.hub.names import Name
from pagemill.hub.remotes import Remotes
from pagemill.hub.store import Store

moments = iter(range(int(sys.argv[3])))

def moment(*_):
    if next(moments, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)

def watched(call):
    return lambda *given, **named: (moment(), call(*given, **named))[1]

os.fsync, os.replace, os.link, Path.unlink = map(
    watched, (os.fsync, os.replace, os.link, Path.unlink)
)
pull(Name.parse("org/repo"), Store(Path(sys.argv[1])), remotes=Remotes(hf_endpoint=sys.argv[2]),
     progress=moment)
"""


def test_killed_at_any_moment_a_pull_of_a_folder_leaves_a_sound_store(
    fake: Fake, tmp_path: Path
) -> None:
    offer(fake, SMALL)
    root = Path(download.__file__).parents[2]
    seen = set()
    for moment in range(0, 500, 4):
        store = Store(tmp_path / str(moment))
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(store.home), fake.url, str(moment)],
            env={**os.environ, "PYTHONPATH": str(root)},
            check=False,
        )
        folders = list((store.home / "folders").glob("*/*"))
        blobs = list((store.home / "blobs").glob("*"))
        seen.add((len(blobs) == len(SMALL), len(folders) == len(SMALL), bool(store.list())))
        assert store.verify() == []
        assert all(content(model.path) == SMALL for model in store.list())
        assert content(get(fake, store).path) == SMALL
        assert store.verify() == []
        assert list((store.home / "partial").iterdir()) == []
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
    assert done.returncode == 0
    # Kills fell before the last file, between files and manifest, and after it.
    assert {(False, False, False), (True, True, False), (True, True, True)} <= seen


@pytest.mark.usefixtures("fast_disk")
def test_pulls_and_removals_at_once_end_as_if_one_after_the_other(fake: Fake, store: Store) -> None:
    """Models that share most of their files come and go; what is listed is whole at all times."""
    repos = {f"org/m{n}": {**NEEDED, "config.json": b"%d" % n} for n in range(3)}
    for repo, files in repos.items():
        offer(fake, files, repo=repo)
    problems: list[BaseException] = []
    stop = threading.Event()

    def work(repo: str, seed: int) -> None:
        rng = random.Random(seed)
        try:
            for _ in range(6):
                path = get(fake, store, repo).path
                with suppress(FileNotFoundError):  # removed by the other one while we look
                    assert content(path).keys() <= NEEDED.keys()
                if rng.random() < 0.6:
                    store.remove(Name.parse(repo))
        except (UnknownModel, MissingBlob):
            pass  # the other one removed it, before we did or while we pulled
        except BaseException as error:
            problems.append(error)

    def look() -> None:
        while not stop.is_set():
            for model in store.list():
                assert model.size > 80_000

    watcher = threading.Thread(target=look)
    watcher.start()
    threads = [
        threading.Thread(target=work, args=(repo, seed))
        for seed, repo in enumerate([*repos, *repos])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    stop.set()
    watcher.join(10)
    assert problems == []
    assert store.verify() == []
    for repo, files in repos.items():
        assert content(get(fake, store, repo).path) == files
    for repo in repos:
        store.remove(Name.parse(repo))
    left = [path for name in ("blobs", "folders", "manifests", "partial")
            for path in (store.home / name).iterdir()]  # fmt: skip
    assert left == []


@pytest.mark.usefixtures("fast_disk")
def test_twenty_pulls_of_a_repository_are_one_transfer(fake: Fake, store: Store) -> None:
    offer(fake, NEEDED)

    def slow(handler: Handler, body: bytes) -> bool:
        handler.serve("application/octet-stream", body, slow_s=0.002)
        return True

    fake.faults[place(SHARDS[0])] = slow
    results = []
    threads = [threading.Thread(target=lambda: results.append(get(fake, store))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({model.path for model in results}) == 1
    assert len(results) == 20
    for shard in SHARDS:
        assert fake.count(place(shard)) == 1
    assert content(results[0].path) == NEEDED


def test_a_pull_that_ends_while_another_links_its_blob_does_not_take_the_link(
    fake: Fake, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has the lock of a blob clears what was collected for it, at any moment."""
    offer(fake, SMALL)
    link = os.link

    def linked(target: str | Path, place: Path) -> None:
        link(target, place)
        store.clear_partial(Path(target).name.removeprefix("sha256-"))

    monkeypatch.setattr("os.link", linked)
    assert content(get(fake, store).path) == SMALL


def test_a_blob_removed_while_it_is_verified_is_fetched_again(
    fake: Fake, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(fake, SMALL, repo="org/first")
    get(fake, store, "org/first")
    offer(fake, SMALL)
    hashed = download.file_sha256

    def removed(path: Path) -> str:
        if store.lists(Name.parse("org/first")):
            store.remove(Name.parse("org/first"))
        return hashed(path)

    monkeypatch.setattr(download, "file_sha256", removed)
    assert content(get(fake, store).path) == SMALL
    assert store.verify() == []
