"""Hub names become one pinned file, and refusals say what to do."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from pagemill.errors import DownloadError, NotFound, PagemillError, Unsupported
from pagemill.hub.catalogue import Catalogue, Entry, HubSource
from pagemill.hub.download import pull
from pagemill.hub.names import Name
from pagemill.hub.remotes import Remotes, Timing
from pagemill.hub.store import Store, StoredModel
from tests.hub.fake import Fake, Handler, model_bytes

DATA = model_bytes(20_000)
SHA = hashlib.sha256(DATA).hexdigest()
COMMIT = "c0ffee" * 6 + "abcd"
LISTING = "/api/models/org/repo/revision/main"


def offer(fake: Fake, *files: str, **changes: Any) -> None:
    lfs = {"sha256": SHA, "size": len(DATA)} | changes
    siblings = [{"rfilename": "README.md"}, *({"rfilename": f, "lfs": lfs} for f in files)]
    listing = json.dumps({"sha": COMMIT, "siblings": siblings}).encode()
    fake.files[LISTING] = ("application/json", listing)
    for file in files:
        fake.files[f"/org/repo/resolve/{COMMIT}/{file}"] = ("application/octet-stream", DATA)


def get(fake: Fake, folder: Path, text: str = "org/repo", token: str = "") -> StoredModel:
    remotes = Remotes(hf_endpoint=fake.url, hf_token=token)
    timing = Timing(attempts=2, backoff_s=0.001)
    return pull(Name.parse(text), Store(folder), remotes=remotes, timing=timing)


@pytest.mark.parametrize(
    ("text", "files", "chosen"),
    [
        ("org/repo", ["m-Q2_K.gguf", "m-Q4_K_M.gguf", "m-Q8_0.gguf"], "m-Q4_K_M.gguf"),
        ("org/repo", ["m-IQ4_0.gguf", "m.Q8_0.gguf", "mmproj-F16.gguf"], "m.Q8_0.gguf"),
        ("org/repo", ["only.gguf"], "only.gguf"),
        ("org/repo:q4_k", ["m-Q4_K_M.gguf", "m-Q4_K.gguf"], "m-Q4_K.gguf"),
        ("hf.co/org/repo:Q2_K", ["q2_k/m-q2_k.gguf", "m-q4_k_m.gguf"], "q2_k/m-q2_k.gguf"),
    ],
)
def test_the_right_file_at_a_pinned_commit(
    fake: Fake, tmp_path: Path, text: str, files: list[str], chosen: str
) -> None:
    offer(fake, *files)
    model = get(fake, tmp_path, text)
    assert model.path.read_bytes() == DATA
    assert model.source == f"hf.co/org/repo@{COMMIT}/{chosen}"
    assert [path for path, _ in fake.asked] == [LISTING, f"/org/repo/resolve/{COMMIT}/{chosen}"]


@pytest.mark.parametrize(
    ("text", "files", "error", "message"),
    [
        ("org/repo:Q5_0", ["m-Q4_0.gguf"], NotFound, "it has m-Q4_0.gguf"),
        ("org/repo", ["model.safetensors"], NotFound, "no GGUF file"),
        ("org/repo:Q4_0", ["a-Q4_0.gguf", "b-Q4_0.gguf"], NotFound, "not one file"),
        ("org/repo:Q8_0", ["m-Q8_0-00001-of-00002.gguf"], Unsupported, "one piece"),
    ],
)
def test_no_such_file(
    fake: Fake, tmp_path: Path, text: str, files: list[str], error: type[Exception], message: str
) -> None:
    offer(fake, *files)
    with pytest.raises(error, match=message):
        get(fake, tmp_path, text)


@pytest.mark.parametrize(
    "changes", [{"size": -1}, {"size": True}, {"size": "9"}, {"sha256": "../x"}, {"sha256": ""}]
)
def test_listings_that_make_no_sense(fake: Fake, tmp_path: Path, changes: dict[str, Any]) -> None:
    offer(fake, "m.gguf", **changes)
    with pytest.raises(DownloadError, match="makes no sense"):
        get(fake, tmp_path)


@pytest.mark.parametrize(
    "body",
    ["<html>", "[]", "null", "{}", '{"sha": "x", "siblings": []}', "[" * 100_000,
     json.dumps({"sha": COMMIT, "siblings": 3}), json.dumps({"sha": COMMIT, "siblings": [[]]}),
     json.dumps({"sha": "../" + COMMIT, "siblings": []})],
    ids=lambda body: body[:20],
)  # fmt: skip
def test_answers_that_are_no_listing(fake: Fake, tmp_path: Path, body: str) -> None:
    fake.files[LISTING] = ("application/json", body.encode())
    with pytest.raises(PagemillError, match=r"hf\.co/org/repo"):
        get(fake, tmp_path)


def test_a_gated_repository_names_the_page_and_the_variable(fake: Fake, tmp_path: Path) -> None:
    offer(fake, "m.gguf")

    def gate(handler: Handler, body: bytes) -> bool:
        if handler.headers.get("Authorization") == "Bearer hf_secret":
            return False
        handler.answer(401, b"", WWW_Authenticate='Bearer realm="http://127.0.0.1:1/steal"')
        return True

    fake.faults[f"/org/repo/resolve/{COMMIT}/m.gguf"] = gate
    for token in ("", "hf_wrong"):
        with pytest.raises(DownloadError, match="HF_TOKEN") as caught:
            get(fake, tmp_path, token=token)
        assert "https://huggingface.co/org/repo" in caught.value.message
        assert "hf_wrong" not in caught.value.message
    assert get(fake, tmp_path, token="hf_secret").path.read_bytes() == DATA


def test_a_catalogue_entry_on_the_hub_must_have_the_pinned_bytes(
    fake: Fake, tmp_path: Path
) -> None:
    offer(fake, "m.gguf")
    source = HubSource("org/repo", "main", "m.gguf")
    remotes = Remotes(hf_endpoint=fake.url)
    for sha, fine in ((SHA, True), ("0" * 64, False)):
        entry = Entry(Name.parse("m"), (), "", "MIT", "m.gguf", sha, len(DATA), (source,))
        store = Store(tmp_path / sha)
        if fine:
            assert pull(entry.name, store, remotes=remotes, catalogue=Catalogue((entry,)))
        else:
            with pytest.raises(DownloadError, match=r"another m\.gguf than is pinned"):
                pull(entry.name, store, remotes=remotes, catalogue=Catalogue((entry,)))
