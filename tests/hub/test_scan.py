"""Models of other programs are found in their caches, and nothing there can hold us up."""

import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from pagemill.hub.imports import register
from pagemill.hub.scan import Cache, Candidate, caches, scan
from pagemill.hub.store import Store
from tests.hub.fake import model_bytes
from tests.hub.hf import NEEDED, SHARDS

DATA = b"GGUF" + model_bytes(5000)
COMMIT = "ab" * 20


def write(path: Path, body: bytes = DATA) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    return path


def hf_repo(root: Path, repo: str, files: dict[str, bytes], commit: str = COMMIT) -> Path:
    """A repository as huggingface_hub lays it: links from snapshots into blobs."""
    top = root / ("models--" + repo.replace("/", "--"))
    snapshot = top / "snapshots" / commit
    for name, body in files.items():
        blob = write(top / "blobs" / hashlib.sha256(body).hexdigest(), body)
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(os.path.relpath(blob, (snapshot / name).parent))
    write(top / "refs" / "main", commit.encode())
    return snapshot


def ollama_model(root: Path, name: str, body: bytes = DATA, digest: str = "") -> Path:
    digest = digest or hashlib.sha256(body).hexdigest()
    layers = [
        {"mediaType": "application/vnd.ollama.image.template", "digest": f"sha256:{'0' * 64}"},
        {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}"},
    ]
    write(root / "manifests" / name, json.dumps({"layers": layers}).encode())
    return write(root / "blobs" / f"sha256-{digest}", body)


def table(found: list[Candidate]) -> dict[str, tuple[str, str]]:
    return {str(one.name): (one.cache.program, one.model.kind) for one in found}


def look_around(program: str, root: Path) -> list[Candidate]:
    return scan([Cache(program, root)])


def test_caches_are_where_their_programs_say(tmp_path: Path) -> None:
    home = tmp_path / "home"
    for folder in (
        ".cache/huggingface/hub", ".ollama/models", ".lmstudio/models", ".cache/llama.cpp",
        ".cache/lm-studio/models",
    ):  # fmt: skip
        (home / folder).mkdir(parents=True)
    found = caches({}, home)
    ours = [cache for cache in found if cache.root.is_relative_to(home)]
    assert [(cache.program, str(cache.root.relative_to(home))) for cache in ours] == [
        ("Hugging Face", ".cache/huggingface/hub"),
        ("Ollama", ".ollama/models"),
        ("LM Studio", ".lmstudio/models"),
        ("LM Studio", ".cache/lm-studio/models"),
        ("llama.cpp", ".cache/llama.cpp"),
    ]
    places = {name: tmp_path / name for name in ("hf", "hub", "ollama", "llama")}
    for place in [*places.values(), places["hf"] / "hub"]:
        place.mkdir()
    env = {"HF_HOME": str(places["hf"]), "OLLAMA_MODELS": str(places["ollama"])}
    env |= {"LLAMA_CACHE": str(places["llama"])}
    roots = {cache.root for cache in caches(env, home)}
    assert {places["hf"] / "hub", places["ollama"], places["llama"]} <= roots
    assert home / ".cache/huggingface/hub" not in roots
    env["HF_HUB_CACHE"] = str(places["hub"])
    assert places["hub"] in {cache.root for cache in caches(env, home)}
    (tmp_path / "link").symlink_to(places["ollama"])
    env = {"OLLAMA_MODELS": str(tmp_path / "link")}
    assert places["ollama"] in {cache.root for cache in caches(env, home)}


def test_hugging_face(tmp_path: Path, store: Store) -> None:
    snapshot = hf_repo(tmp_path, "org/repo", {**NEEDED, "pytorch_model.bin": b"x"})
    hf_repo(tmp_path, "org/one-GGUF", {"m-Q4_K_M.gguf": DATA})
    hf_repo(tmp_path, "org/two-GGUF", {"m-Q4_0.gguf": DATA, "Q8_0/m-Q8_0.gguf": DATA + b"x"})
    hf_repo(tmp_path, "org/empty", {"README.md": b"x"})
    hf_repo(tmp_path, "gpt2", {"config.json": b"{}", "model.safetensors": b"x"})
    hf_repo(tmp_path, "org/parts", {f"unet/{name}": body for name, body in NEEDED.items()})
    (tmp_path / "datasets--org--data" / "snapshots").mkdir(parents=True)
    found = look_around("Hugging Face", tmp_path)
    assert table(found) == {
        "gpt2": ("Hugging Face", "safetensors"),
        "hf.co/org/one-GGUF": ("Hugging Face", "GGUF"),
        "hf.co/org/parts/unet": ("Hugging Face", "safetensors"),
        "hf.co/org/repo": ("Hugging Face", "safetensors"),
        "hf.co/org/two-GGUF:Q4_0": ("Hugging Face", "GGUF"),
        "hf.co/org/two-GGUF:Q8_0": ("Hugging Face", "GGUF"),
    }
    by_name = {str(one.name): one for one in found}
    repo = by_name["hf.co/org/repo"]
    assert repo.model.path == snapshot
    assert repo.model.size == sum(len(body) for body in NEEDED.values())
    assert by_name["hf.co/org/one-GGUF"].sha256 == hashlib.sha256(DATA).hexdigest()
    for one in found:
        register(store, one.name, one.model, "scan", one.sha256)
    assert len(store.list()) == 6
    assert store.verify() == []


def test_of_several_snapshots_the_one_of_main(tmp_path: Path) -> None:
    hf_repo(tmp_path, "org/repo", {"config.json": b"{}", "model.safetensors": b"old"})
    new = hf_repo(tmp_path, "org/repo", {"config.json": b"{}", "model.safetensors": b"n"}, "c" * 40)
    [one] = look_around("Hugging Face", tmp_path)
    assert one.model.path == new
    (tmp_path / "models--org--repo/refs/main").write_text("../../..")
    assert len(look_around("Hugging Face", tmp_path)) == 1


def test_ollama(tmp_path: Path, store: Store) -> None:
    library = "registry.ollama.ai/library"
    blob = ollama_model(tmp_path, f"{library}/llama3/8b")
    ollama_model(tmp_path, f"{library}/llama3/latest")
    ollama_model(tmp_path, "registry.ollama.ai/someone/tuned/v1")
    ollama_model(tmp_path, "hf.co/org/repo-GGUF/Q4_K_M")
    found = look_around("Ollama", tmp_path)
    assert sorted(table(found)) == [
        "hf.co/org/repo-GGUF:Q4_K_M", "llama3:8b", "llama3:latest", "someone-tuned:v1"
    ]  # fmt: skip
    assert {one.model.path for one in found} == {blob}
    model = register(store, found[0].name, found[0].model, "scan", found[0].sha256)
    assert model.digest == f"sha256:{hashlib.sha256(DATA).hexdigest()}"
    assert store.verify() == []


@pytest.mark.parametrize(
    "manifest",
    [
        b"", b"{", b"[]", b"null", b"[" * 100_000, b'{"layers": 3}', b'{"layers": [3]}',
        b'{"layers": []}', b"x" * 2_000_000,
        *(json.dumps({"layers": [{"mediaType": "application/vnd.ollama.image.model",
                                  "digest": digest}]}).encode()
          for digest in ("sha256:../../x", "", "sha256:" + "A" * 64, None, "sha256:" + "f" * 64)),
    ],
    ids=lambda raw: str(raw[-30:]),
)  # fmt: skip
def test_manifests_of_others_are_not_believed(tmp_path: Path, manifest: bytes) -> None:
    write(tmp_path / "manifests/registry.ollama.ai/library/m/latest", manifest)
    ollama_model(tmp_path, "registry.ollama.ai/library/good/latest")
    assert list(table(look_around("Ollama", tmp_path))) == ["good:latest"]


def test_lm_studio_and_llama_cpp(tmp_path: Path) -> None:
    studio, llama = tmp_path / "studio", tmp_path / "llama"
    write(studio / "pub/one-GGUF/one-Q4_K_M.gguf")
    write(studio / "pub/one-GGUF/mmproj-one.gguf")
    write(studio / "pub/two-GGUF/two-Q4_0.gguf")
    write(studio / "pub/two-GGUF/two-Q8_0.gguf")
    for name, body in NEEDED.items():
        write(studio / "pub/mlx" / name, body)
    for n in (1, 2):
        write(llama / f"org_m-GGUF_m-0000{n}-of-00002.gguf")
    write(llama / "ggml-org_tiny-GGUF_tiny-Q8_0.gguf")
    write(llama / "ggml-org_tiny-GGUF_tiny-Q8_0.gguf.json", b"{}")
    found = scan([Cache("LM Studio", studio), Cache("llama.cpp", llama)])
    assert table(found) == {
        "hf.co/pub/mlx": ("LM Studio", "safetensors"),
        "hf.co/pub/one-GGUF": ("LM Studio", "GGUF"),
        "hf.co/pub/two-GGUF:Q4_0": ("LM Studio", "GGUF"),
        "hf.co/pub/two-GGUF:Q8_0": ("LM Studio", "GGUF"),
        "ggml-org_tiny-gguf_tiny-q8_0": ("llama.cpp", "GGUF"),
        "org_m-gguf_m": ("llama.cpp", "GGUF"),
    }


def test_each_has_a_name_of_its_own(tmp_path: Path) -> None:
    write(tmp_path / "a/org/repo-GGUF/m-Q4_0.gguf")
    write(tmp_path / "b/org/repo-GGUF/m-Q4_0.gguf")
    places = [Cache("LM Studio", tmp_path / "a"), Cache("LM Studio", tmp_path / "b")]
    [first, second] = scan(places)
    assert (str(first.name), str(second.name)) == (
        "hf.co/org/repo-GGUF", "hf.co/org/repo-GGUF:2"
    )  # fmt: skip
    [third, _] = scan(places, {first.name.key})
    assert str(third.name) == "hf.co/org/repo-GGUF:2"


def test_nothing_in_a_cache_is_followed_out_of_it_or_waited_for(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    outside = write(tmp_path / "outside.gguf")
    snapshot = hf_repo(root, "org/repo", {"m-Q4_0.gguf": DATA})
    (snapshot / "out-Q8_0.gguf").symlink_to(outside)
    (snapshot / "loop-Q2_K.gguf").symlink_to("loop-Q2_K.gguf")
    (snapshot / "zero-Q3_K.gguf").symlink_to("/dev/zero")
    os.mkfifo(snapshot / "pipe-Q5_0.gguf")
    (snapshot / "up").symlink_to(root)
    (root / "models--loop--x").symlink_to(root)
    write(snapshot / "text-Q6_K.gguf", b"not a model")
    leaking = hf_repo(root, "org/leak", dict(NEEDED))
    (leaking / SHARDS[0]).unlink()
    (leaking / SHARDS[0]).symlink_to(outside)
    with open(root / "models--org--repo/snapshots" / COMMIT / "huge-BF16.gguf", "wb") as file:
        file.truncate(1 << 40)
    begin = time.monotonic()
    found = look_around("Hugging Face", root)
    assert time.monotonic() - begin < 5
    assert [str(one.name) for one in found] == ["hf.co/org/repo"]
    for program in ("Ollama", "LM Studio", "llama.cpp"):
        look_around(program, root)
        look_around(program, tmp_path / "nowhere")
    ollama = tmp_path / "ollama"
    ollama_model(ollama, "registry.ollama.ai/library/m/latest").unlink()
    blob = ollama / "blobs" / f"sha256-{hashlib.sha256(DATA).hexdigest()}"
    blob.symlink_to(outside)
    assert look_around("Ollama", ollama) == []
    blob.unlink()
    os.mkfifo(blob)
    os.mkfifo(ollama / "manifests/registry.ollama.ai/library/m/pipe")
    assert look_around("Ollama", ollama) == []


@pytest.mark.parametrize("name", ["..", "a b", "x:y", "é", "con", "-x", "a--b"])
def test_folders_whose_names_are_no_names(tmp_path: Path, name: str) -> None:
    if name != "..":
        write(tmp_path / name / "repo" / "m-Q4_0.gguf")
    write(tmp_path / f"models--{name}--x/snapshots/{COMMIT}/m-Q4_0.gguf")
    for program in ("LM Studio", "Hugging Face"):
        for one in look_around(program, tmp_path):
            assert one.name.kind == "hub"
