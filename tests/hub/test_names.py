"""Every form of a model name, and everything that only looks like one."""

import pytest

from pagemill.errors import InvalidRequest
from pagemill.hub.names import MAX_LENGTH, Name


@pytest.mark.parametrize(
    ("text", "kind", "model", "tag", "printed"),
    [
        ("smollm2", "catalogue", "smollm2", "", "smollm2"),
        ("smollm2:135m", "catalogue", "smollm2", "135m", "smollm2:135m"),
        ("SmolLM2:135M", "catalogue", "smollm2", "135m", "smollm2:135m"),
        ("qwen2.5-coder:0.5b", "catalogue", "qwen2.5-coder", "0.5b", "qwen2.5-coder:0.5b"),
        ("a", "catalogue", "a", "", "a"),
        ("hf.co/org/repo:q4_k_m", "hub", "org/repo", "Q4_K_M", "hf.co/org/repo:Q4_K_M"),
        ("huggingface.co/org/repo", "hub", "org/repo", "", "hf.co/org/repo"),
        ("org/Repo.v1-GGUF:Q8_0", "hub", "org/Repo.v1-GGUF", "Q8_0", "hf.co/org/Repo.v1-GGUF:Q8_0"),
        ("org/repo:latest", "hub", "org/repo", "", "hf.co/org/repo"),
        ("./file.gguf", "file", "./file.gguf", "", "./file.gguf"),
        ("./folder", "file", "./folder", "", "./folder"),
        ("~/m", "file", "~/m", "", "~/m"),
        (".", "file", ".", "", "."),
        ("..", "file", "..", "", ".."),
        ("/abs/a b:c.gguf", "file", "/abs/a b:c.gguf", "", "/abs/a b:c.gguf"),
        ("../up/file.gguf", "file", "../up/file.gguf", "", "../up/file.gguf"),
    ],
)
def test_valid(text: str, kind: str, model: str, tag: str, printed: str) -> None:
    name = Name.parse(text)
    assert (name.kind, name.model, name.tag, str(name)) == (kind, model, tag, printed)
    assert Name.parse(printed) == name


INVALID = [
    "", " ", ":", "@", "@x", "-x", ".x", "_x", "x.", "x ", " x", "x..y", "...", ".../x", "~x",
    "..\\x", "a/../../x", "a/..", "a\\b", "C:\\x", "a@b", "smollm2@main", "a/b@", "a/b@..",
    "a/b@x..y", "a/b@/x", "a/b@x/", "a/b@x//y", "a/b@-x", "a/b@x y", "a/b@x?y", "a/b@x#y",
    "a/b@%2e%2e", "a/b:q@r:s", "a/b@r@s", "a/b/../c", "a/b//c", "a/b/.git", "a/b@.x", "a/b@x\0",
    "%2e%2e/", "%2e%2e%2fx", "x\x00y", "x\ny", "x\x1b[0m", "x\t", "./x\x00.gguf", "/a\n.gguf",
    "CON", "con", "nul.txt", "a/aux", "com1", "org/LPT9.x", "a:con",
    "x\u2024y", "\u2024\u2024/x", "a\uff0fb", "a\u2215b", "a\u202eb", "\u200ba", "\u0430bc", "é",
    "a:", ":a", "a:b:c", "a//b", "a/b/", "host:8080/a/b", "hf.co/a", "hf.co/",
    "hf.co//a", "https://hf.co/a/b", "file:///etc/x.gguf", "x.gguf/..", "a b",
    "a" * (MAX_LENGTH + 1), "a" * 10_240, "/" + "a" * 10_240 + ".gguf", "a?b", "a#b", "a*b", "a|b",
]  # fmt: skip


@pytest.mark.parametrize("text", INVALID, ids=lambda text: ascii(text)[:40])
def test_invalid(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Name.parse(text)
    message = caught.value.message
    assert caught.value.param == "model"
    assert message.isascii()
    assert message.isprintable()
    assert len(message) < 400


@pytest.mark.parametrize("text", ["/etc/secret.gguf", "/", "//", "..", "../x", "./x", "~/x", "."])
def test_files_can_be_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="command line"):
        Name.parse(text, allow_files=False)


def test_catalogue_names_are_no_files() -> None:
    assert Name.parse("smollm2", allow_files=False).model == "smollm2"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("org/repo@v1.0", ("org/repo", "", "", "v1.0")),
        ("org/repo/a/b@refs/pr/3", ("org/repo", "", "a/b", "refs/pr/3")),
        ("org/repo:q8_0@main", ("org/repo", "Q8_0", "", "main")),
        ("hf.co/org/repo/UD@main:q8_0", ("org/repo", "Q8_0", "UD", "main")),
        ("org/repo@c0ffee", ("org/repo", "", "", "c0ffee")),
    ],
)
def test_folders_and_revisions(text: str, parts: tuple[str, str, str, str]) -> None:
    name = Name.parse(text)
    assert (name.model, name.tag, name.folder, name.revision) == parts
    assert Name.parse(str(name)) == name


def test_a_name_at_another_revision() -> None:
    assert str(Name.parse("org/repo:q8_0").at("v2")) == "hf.co/org/repo:Q8_0@v2"
    for text, revision in (("smollm2", "v2"), ("./x", "v2"), ("org/repo", "../x")):
        with pytest.raises(InvalidRequest):
            Name.parse(text).at(revision)


def test_keys_are_file_names_that_ignore_case_and_never_collide() -> None:
    texts = ["a", "a:b", "a-b", "a.b", "a_b", "a/b", "a/b:c", "a-b:c", "hf.co/a/b.c"]
    keys = {Name.parse(text).key for text in texts}
    assert len(keys) == len(texts)
    assert all("/" not in key and not key.startswith(".") and len(key) < 100 for key in keys)
    assert Name.parse("Org/Repo:q8_0").key == Name.parse("org/repo:Q8_0").key
    assert Name.parse("Org/repo/Sub").key != Name.parse("org/repo/sub").key
    assert Name.parse("org/repo@V1").key != Name.parse("org/repo@v1").key
