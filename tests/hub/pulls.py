"""A pull of the one small model that tests of downloads use, and what must be true after it."""

from dataclasses import replace

from pagemill.hub.catalogue import Catalogue
from pagemill.hub.download import pull
from pagemill.hub.names import Name
from pagemill.hub.remotes import Remotes, Timing
from pagemill.hub.store import Store, StoredModel
from tests.hub.fake import Fake, model_bytes

DATA = model_bytes()
TINY = Name.parse("tiny")
WHEEL = "/files/tiny_part0-1.0-py3-none-any.whl"
PAGE = "/simple/tiny-part0/"
# Quick to try again, slow to call a busy test machine a stall; HASTY is for servers that do stall.
FAST = Timing(attempts=3, backoff_s=0.001, max_wait_s=2.0, stall_s=10.0)
HASTY = replace(FAST, stall_s=0.3)


def tiny(
    fake: Fake, store: Store, catalogue: Catalogue, timing: Timing = FAST, **more: object
) -> StoredModel:
    remotes = Remotes(index_url=f"{fake.url}/simple")
    return pull(TINY, store, remotes=remotes, catalogue=catalogue, timing=timing, **more)  # type: ignore[arg-type]


def assert_whole(store: Store) -> None:
    assert [str(model.name) for model in store.list()] == ["tiny:1b"]
    assert store.list()[0].path.read_bytes() == DATA
    assert store.verify() == []
    assert list((store.home / "partial").iterdir()) == []


def assert_nothing_listed(store: Store) -> None:
    assert store.list() == []
    assert list((store.home / "blobs").iterdir()) == []
