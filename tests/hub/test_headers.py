"""Headers of a repository's files: enough to open a model, and no more."""

from pathlib import Path

import pytest

from pagemill import models
from pagemill.errors import BadModelFile, DownloadError, NotFound, UnknownModel
from pagemill.hub.headers import headers
from pagemill.hub.names import Name
from pagemill.hub.remotes import Remotes
from pagemill.weights.load import open_model
from tests.hub.fake import Fake
from tests.hub.hf import FAST, offer, place

GOLDEN = Path(__file__).parents[1] / "golden"
NAME, GGUF = Name.parse("org/repo"), Name.parse("org/repo:F32")
LLAMA = GOLDEN / "llama"
SHARD, FILE = "model.safetensors", "model-F32.gguf"


def offer_folder(fake: Fake) -> None:
    names = ("config.json", SHARD)
    files = {name: (LLAMA / name).read_bytes() for name in names}
    offer(fake, files | {"tokenizer.json": b"{}", "LICENSE": b"Apache"})


def offer_gguf(fake: Fake) -> int:
    """How long its header is."""
    body = (GOLDEN / "tiny_llama.gguf").read_bytes()
    offer(fake, {FILE: body})
    return len(body) - open_model(GOLDEN / "tiny_llama.gguf", models).card.weights_bytes


@pytest.mark.parametrize("ranges", [True, False])
def test_a_folder_opens_by_its_headers(fake: Fake, ranges: bool) -> None:
    offer_folder(fake)
    fake.ranges = ranges  # a server may send everything: it is not read to the end
    with headers(NAME, Remotes(hf_endpoint=fake.url), 1, timing=FAST) as path:
        card = open_model(path, models).card
        assert (path / SHARD).stat().st_size == (LLAMA / SHARD).stat().st_size
    assert not path.exists()
    there = open_model(LLAMA, models).card
    for what in ("parameters", "weights_bytes", "kv_elements", "layers", "vocab_size"):
        assert getattr(card, what) == getattr(there, what)
    assert not fake.count(place("tokenizer.json")) and not fake.count(place("LICENSE"))


def test_of_a_gguf_file_so_many_bytes_are_fetched(fake: Fake) -> None:
    size = offer_gguf(fake)
    with headers(GGUF, Remotes(hf_endpoint=fake.url), size, timing=FAST) as path:
        card = open_model(path, models).card
    assert card.parameters == open_model(GOLDEN / "tiny_llama.gguf", models).card.parameters
    [asked] = [sent for at, sent in fake.asked if at == place(FILE)]
    assert asked["range"] == f"bytes=0-{size - 1}"


def test_too_few_bytes_do_not_open(fake: Fake) -> None:
    offer_gguf(fake)
    with (
        headers(GGUF, Remotes(hf_endpoint=fake.url), 1000, timing=FAST) as path,
        pytest.raises(BadModelFile),
    ):
        open_model(path, models)


def test_a_header_that_claims_to_be_endless(fake: Fake) -> None:
    endless = b"\xff" * 7 + b"\x00" + b"x" * 100
    offer(fake, {"config.json": (LLAMA / "config.json").read_bytes(), SHARD: endless})
    with (
        pytest.raises(DownloadError, match=r"header has \d+ bytes, over"),
        headers(NAME, Remotes(hf_endpoint=fake.url), 1, timing=FAST),
    ):
        pass


@pytest.mark.parametrize(
    ("name", "offline", "error", "words"),
    [
        ("org/other", False, NotFound, "does not exist"),
        ("org/repo", True, DownloadError, "offline"),
        ("smollm2", False, DownloadError, "wheels"),
        ("nothing:1b", False, UnknownModel, "not in the catalogue"),
    ],
)
def test_what_cannot_be_asked(
    fake: Fake, name: str, offline: bool, error: type[Exception], words: str
) -> None:
    remotes = Remotes(hf_endpoint=fake.url, offline=offline)
    with (
        pytest.raises(error, match=words),
        headers(Name.parse(name), remotes, 1000, timing=FAST),
    ):
        pass
