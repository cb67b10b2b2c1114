"""Hubs that lie, cut, stall, redirect and flood: one clear error, and the next pull repairs."""

import gzip
import json
import random
import resource
import socket
import time
from collections.abc import Callable
from typing import Any

import httpcore
import pytest

from pagemill.errors import DownloadError, PagemillError
from pagemill.hub.checks import checked_path
from pagemill.hub.store import Store
from tests.hub.fake import Fake, Handler, serving
from tests.hub.hf import (
    COMMIT,
    FAST,
    HASTY,
    INDEX,
    LISTING,
    NEEDED,
    SHARDS,
    asked_commits,
    content,
    get,
    offer,
    place,
    publish,
)

pytestmark = pytest.mark.usefixtures("fast_disk")

BIG = place(SHARDS[0])
INDEX_PLACE = place("model.safetensors.index.json")
Body = Callable[[bytes], bytes]


def serve(change: Body) -> Callable[[Handler, bytes], bool]:
    def fault(handler: Handler, body: bytes) -> bool:
        handler.serve("application/octet-stream", change(body))
        return True

    return fault


def flip(body: bytes) -> bytes:
    return body[:-1] + bytes([body[-1] ^ 1])


def streamed(piece: bytes, count: int, slow_s: float = 0) -> Callable[[Handler, bytes], bool]:
    """So many pieces, in chunks, with no length told."""

    def fault(handler: Handler, body: bytes) -> bool:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for _ in range(count):
            handler.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            time.sleep(slow_s)
        handler.close_connection = True
        return True

    return fault


def raw(*lines: bytes, slow_s: float = 0, repeat: int = 1) -> Callable[[Handler, bytes], bool]:
    """Bytes as they are, in place of an answer."""

    def fault(handler: Handler, body: bytes) -> bool:
        for _ in range(repeat):
            for line in lines:
                handler.wfile.write(line)
                time.sleep(slow_s)
        handler.close_connection = True
        return True

    return fault


def answer(status: int, body: bytes = b"", **headers: str) -> Callable[[Handler, bytes], bool]:
    def fault(handler: Handler, _: bytes) -> bool:
        handler.answer(status, body, **headers)
        return True

    return fault


DRIP = raw(b"HTTP/1.1 200 OK\r\nX-A: ", *[b"x"] * 100, slow_s=0.02)
BOMB = gzip.compress(bytes(50_000_000))


@pytest.mark.parametrize(
    ("where", "fault", "message"),
    [
        (BIG, serve(flip), "has sha256"),
        (place("config.json"), serve(flip), "has git id"),
        (BIG, serve(lambda body: body + b"more"), "has 50004 bytes, not the expected 50000"),
        (BIG, serve(lambda body: body[:-5]), "has 49995 bytes, not the expected 50000"),
        (BIG, streamed(b"x" * 9000, 1000), "more than 50000 bytes"),
        (place("vocab.json"), streamed(b"x" * 9000, 1000), "more than 2 bytes"),
        (BIG, answer(200, BOMB, Content_Encoding="gzip"), "compressed"),
        (LISTING, answer(200, BOMB, Content_Encoding="gzip"), "compressed"),
        (LISTING, answer(200, BOMB, Content_Type="application/json"), "over|not JSON"),
        (LISTING, answer(200, b"<html>log in</html>"), "not JSON"),
        (LISTING, answer(200, b"[" * 1_000_000), "not JSON"),
        (LISTING, answer(200, b'{"sha": ' + b"9" * 10_000 + b"}"), "no sense|not JSON"),
        (INDEX_PLACE, answer(200, b"<html>"), "has 6 bytes"),
        (INDEX_PLACE, serve(flip), "has git id"),
        (BIG, raw(b"\x16\x03\x01 what is this\r\n\r\n"), "3 attempts"),
        (BIG, raw(b"HTTP/1.1 200 OK\r\n" + b"X-A: " + b"a" * 500_000), "3 attempts"),
        (BIG, raw(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n"), "3 attempts"),
        (BIG, raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1e3\r\n\r\n"), "3 attempts"),
        (BIG, raw(b""), "3 attempts"),
        (BIG, answer(206, b"x" * 50_000), "another range"),
        (BIG, answer(500), "answered 500"),
        (BIG, answer(304), "answered 304"),
        (BIG, answer(204), "answered 204"),
        (BIG, answer(429, Retry_After="9" * 400), "answered 429"),
        (BIG, answer(302, Location="http://[bad"), "refused"),
        (BIG, answer(302, Location="/" * 70_000), "no address|redirects"),
    ],
)  # fmt: skip
def test_one_clear_error_and_the_next_pull_repairs(
    fake: Fake, store: Store, where: str, fault: Any, message: str
) -> None:
    offer(fake, NEEDED)
    fake.faults[where] = fault
    with pytest.raises(DownloadError, match=message) as caught:
        get(fake, store)
    said = caught.value.message
    assert said.isprintable() and len(said) < 400
    assert store.list() == [] and store.verify() == []
    del fake.faults[where]
    assert content(get(fake, store).path) == NEEDED
    assert store.verify() == []
    assert list((store.home / "partial").iterdir()) == []
    assert asked_commits(fake) == {COMMIT}


@pytest.mark.parametrize("fault", [DRIP, streamed(b"x", 100, slow_s=0.02)], ids=["head", "body"])
@pytest.mark.parametrize("where", [LISTING, BIG, INDEX_PLACE])
def test_who_only_drips_is_left(fake: Fake, store: Store, where: str, fault: Any) -> None:
    offer(fake, NEEDED)
    fake.faults[where] = fault
    begin = time.monotonic()
    with pytest.raises(DownloadError, match=r"bytes in 0\.3 seconds"):
        get(fake, store, timing=HASTY)
    assert time.monotonic() - begin < 8
    assert store.list() == []


def test_cuts_are_gone_on_from_where_they_were(fake: Fake, store: Store) -> None:
    offer(fake, NEEDED)
    rng = random.Random(3)
    cuts = {place(name): [rng.randrange(300, 9000) for _ in range(5)] for name in SHARDS}

    def cut(handler: Handler, body: bytes) -> bool:
        left = cuts[handler.path]
        handler.serve("application/octet-stream", body, cut=left.pop() if left else None)
        return True

    for where in cuts:
        fake.faults[where] = cut
    assert content(get(fake, store).path) == NEEDED
    sent = sum(len(NEEDED[name]) for name in SHARDS)
    assert fake.count(place(SHARDS[0])) == 6
    assert fake.sent < 1.1 * sent + 200


def test_a_range_that_is_answered_with_everything_starts_over(fake: Fake, store: Store) -> None:
    offer(fake, NEEDED)
    fake.ranges = False
    cuts = [20_000]

    def cut(handler: Handler, body: bytes) -> bool:
        handler.serve("application/octet-stream", body, cut=cuts.pop() if cuts else None)
        return True

    fake.faults[BIG] = cut
    assert content(get(fake, store).path) == NEEDED


@pytest.mark.parametrize("count", [5, 100, 1_000_000], ids=["few", "hundred", "loop"])
def test_redirects_are_counted(fake: Fake, store: Store, count: int) -> None:
    offer(fake, NEEDED)
    seen = []

    def on(handler: Handler, body: bytes) -> bool:
        seen.append(handler.path)
        if len(seen) > count:
            return False
        target = BIG + ("" if count > 100 else f"?hop={len(seen)}")
        handler.answer(302, b"", Location=target)
        return True

    fake.faults[BIG] = on
    if count == 5:
        assert content(get(fake, store).path) == NEEDED
        return
    with pytest.raises(DownloadError, match="more than 5 redirects"):
        get(fake, store)
    assert len(seen) == 6


def test_the_token_reaches_the_hub_and_no_other_host(
    fake: Fake, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's files are on another host: here a public name, which leads to a second server."""
    offer(fake, NEEDED)
    with serving(Fake()) as cdn:
        cdn.files["/blob"] = ("application/octet-stream", NEEDED[SHARDS[0]])
        fake.faults[BIG] = answer(302, Location="https://cdn.test/blob?sig=s3cret")
        port = int(cdn.url.rpartition(":")[2])
        real = httpcore.SyncBackend.connect_tcp

        def connect(self: Any, host: str, where: int, *more: Any) -> Any:
            there = ("127.0.0.1", port) if host == "151.101.0.223" else (host, where)
            return real(self, *there, *more)

        def plain(self: Any, **_: Any) -> Any:
            return self  # a certificate is not what this test is about

        look_up = socket.getaddrinfo

        def resolve(host: str, *more: Any, **named: Any) -> Any:
            known = [(0, 0, 0, "", ("151.101.0.223", 443))]
            return known if host == "cdn.test" else look_up(host, *more, **named)

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        monkeypatch.setattr("pagemill.hub.wire._Paced.start_tls", plain)
        monkeypatch.setattr(httpcore.SyncBackend, "connect_tcp", connect)
        model = get(fake, store, token="hf_secret")
        assert content(model.path) == NEEDED
        [(path, headers)] = cdn.asked
    assert path == "/blob"
    assert "authorization" not in headers
    assert headers["host"] == "cdn.test"
    assert {sent.get("authorization") for _, sent in fake.asked} == {"Bearer hf_secret"}
    assert "s3cret" not in model.source


@pytest.mark.parametrize(
    "path",
    [
        "../../x.safetensors", "/etc/passwd", "a/../../x", "..", "a/..", "x\0.safetensors",
        "..\\..\\x.safetensors", "\\x", "a\\..\\x",
    ],
    ids=ascii,
)  # fmt: skip
def test_a_listing_with_paths_that_lead_out_is_refused(fake: Fake, store: Store, path: str) -> None:
    listing = offer(fake, NEEDED)
    listing["siblings"].append({**listing["siblings"][0], "rfilename": path})
    publish(fake, listing)
    with pytest.raises(DownloadError, match="leads out"):
        get(fake, store)
    assert not store.home.exists()


@pytest.mark.parametrize(
    "path",
    [
        "C:x.safetensors", "a\nb.safetensors", "a\u202eb.safetensors", ".hidden.safetensors",
        "a*.safetensors", "a?.safetensors", "x" * 600 + ".safetensors", "a|b.safetensors",
    ],
    ids=ascii,
)  # fmt: skip
def test_wanted_files_have_plain_names(fake: Fake, store: Store, path: str) -> None:
    listing = offer(fake, {"config.json": b"{}", "a.safetensors": b"x"})
    listing["siblings"][1]["rfilename"] = path
    publish(fake, listing)
    with pytest.raises(DownloadError, match="makes no sense"):
        get(fake, store)
    assert not store.home.exists()
    with pytest.raises(ValueError, match="path"):
        checked_path(path)


def test_a_name_that_is_there_twice_is_refused(fake: Fake, store: Store) -> None:
    listing = offer(fake, NEEDED)
    listing["siblings"].append(listing["siblings"][0])
    publish(fake, listing)
    with pytest.raises(DownloadError, match="is there twice"):
        get(fake, store)


@pytest.mark.parametrize(
    "name",
    [
        "../../x.safetensors", "/etc/passwd", "a/../../x.safetensors", "..\\x.safetensors", "",
        "x\0.safetensors", "config.json", "model.safetensors.index.json", 7, None, ["x"],
        "C:\\x.safetensors", "missing.safetensors",
    ],
    ids=ascii,
)  # fmt: skip
def test_an_index_names_only_files_that_are_there(fake: Fake, store: Store, name: object) -> None:
    index = json.dumps({"weight_map": {"a": SHARDS[0], "b": name}}).encode()
    offer(fake, {**NEEDED, "model.safetensors.index.json": index})
    with pytest.raises(DownloadError, match="makes no sense"):
        get(fake, store)
    assert not store.home.exists()


@pytest.mark.parametrize(
    "index",
    [b"", b"[]", b"{}", b'{"weight_map": []}', b'{"weight_map": {}}', b"[" * 100_000,
     json.dumps({"weight_map": {str(n): f"{n}.safetensors" for n in range(3000)}}).encode()],
    ids=lambda raw: str(raw[:20]),
)  # fmt: skip
def test_an_index_that_is_none(fake: Fake, store: Store, index: bytes) -> None:
    offer(fake, {**NEEDED, "model.safetensors.index.json": index})
    with pytest.raises(DownloadError, match=r"model\.safetensors\.index\.json"):
        get(fake, store)


LISTINGS: list[Any] = [
    [], None, {}, 7, "x", {"sha": "x", "siblings": []}, {"sha": COMMIT}, {"siblings": []},
    {"sha": COMMIT, "siblings": 3}, {"sha": COMMIT, "siblings": [[]]},
    {"sha": COMMIT, "siblings": [{"rfilename": 3}]}, {"sha": COMMIT, "siblings": ["x"]},
    {"sha": COMMIT, "siblings": {"rfilename": "x"}}, {"sha": f"../{COMMIT}", "siblings": []},
    {"sha": COMMIT.upper(), "siblings": []}, {"sha": COMMIT + "\n", "siblings": []},
]  # fmt: skip


@pytest.mark.parametrize("listing", LISTINGS, ids=str)
def test_answers_that_are_no_listing(fake: Fake, store: Store, listing: Any) -> None:
    publish(fake, listing)
    with pytest.raises(PagemillError, match=r"hf\.co/org/repo"):
        get(fake, store)


ROWS: list[dict[str, Any]] = [
    {"size": -1}, {"size": None}, {"size": True}, {"size": "9"}, {"size": 1.5}, {"blobId": "x"},
    {"blobId": None}, {"blobId": "g" * 40}, {"lfs": [1]}, {"lfs": {"size": 5}},
    {"lfs": {"size": 5, "sha256": "x"}}, {"lfs": {"size": 0, "sha256": "a" * 64}}, {"lfs": "x"},
    {"lfs": {"size": 5, "sha256": "A" * 64}}, {"size": 1 << 70},
]  # fmt: skip


@pytest.mark.parametrize("change", ROWS, ids=str)
def test_rows_that_make_no_sense(fake: Fake, store: Store, change: dict[str, Any]) -> None:
    listing = offer(fake, NEEDED)
    listing["siblings"][0] |= change
    publish(fake, listing)
    with pytest.raises(PagemillError, match=r"hf\.co/org/repo"):
        get(fake, store)
    assert store.list() == []


def test_lies_about_a_blob_cost_no_other_model_its_blob(fake: Fake, store: Store) -> None:
    offer(fake, NEEDED)
    model = get(fake, store)
    listing = offer(fake, NEEDED, repo="org/liar")
    for row in listing["siblings"]:
        if "lfs" in row:
            row["lfs"]["size"] += 1
    publish(fake, listing, repo="org/liar")
    with pytest.raises(DownloadError, match="has 50000 bytes, not 50001"):
        get(fake, store, "org/liar")
    assert store.list() == [model]
    assert store.verify() == []


def test_one_digest_with_two_sizes(fake: Fake, store: Store) -> None:
    files = {"config.json": b"{}", "a.safetensors": b"weights", "b.safetensors": b"weights"}
    listing = offer(fake, files)
    listing["siblings"][2]["lfs"]["size"] = 8
    publish(fake, listing)
    with pytest.raises(DownloadError, match=r"b\.safetensors has 7 bytes, not 8"):
        get(fake, store)
    assert store.list() == []
    offer(fake, files)
    assert content(get(fake, store).path) == files
    assert fake.count(place("a.safetensors")) + fake.count(place("b.safetensors")) == 1


def test_a_hundred_thousand_files_are_too_many(fake: Fake, store: Store) -> None:
    listing = offer(fake, NEEDED)
    listing["siblings"] += [{"rfilename": f"f{n}"} for n in range(100_000)]
    publish(fake, listing)
    begin = time.monotonic()
    with pytest.raises(DownloadError, match="at most 50000 files"):
        get(fake, store)
    assert time.monotonic() - begin < 5
    del listing["siblings"][49_000:]
    publish(fake, listing)
    assert content(get(fake, store).path) == NEEDED


@pytest.mark.parametrize("told", [True, False], ids=["length told", "endless"])
def test_two_gigabytes_of_json_are_not_read(fake: Fake, store: Store, told: bool) -> None:
    piece = b'{"sha": "' + b"x" * (1 << 16)

    def flood(handler: Handler, body: bytes) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        if told:
            handler.send_header("Content-Length", str(2 << 30))
        handler.end_headers()
        for _ in range(1 << 15):
            handler.wfile.write(piece)
            handler.fake.sent += len(piece)
        return True

    fake.faults[LISTING] = flood
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DownloadError, match="over 16777216 bytes"):
        get(fake, store, timing=FAST)
    assert fake.sent < 64 << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10  # KiB


def test_nothing_is_written_outside_the_store(fake: Fake, store: Store) -> None:
    assert INDEX in NEEDED.values()
    offer(fake, NEEDED)
    above = store.home.parent
    get(fake, store)
    assert [path.name for path in above.iterdir()] == [store.home.name]
