"""`import`, `verify`, `rm` and `--revision` as a user types them."""

import hashlib
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pagemill.cli.app import app
from pagemill.hub.names import Name
from pagemill.hub.store import Store

DATA = b"GGUF" + bytes(500)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's home with models of other programs, and a store that is empty."""
    for name in ("HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME", "OLLAMA_MODELS", "LLAMA_CACHE"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    ollama = home / ".ollama/models"
    digest = hashlib.sha256(DATA).hexdigest()
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}"}
    for model in ("llama3/8b", "smollm2/135m"):
        manifest = ollama / "manifests/registry.ollama.ai/library" / model
        manifest.parent.mkdir(parents=True)
        manifest.write_text(json.dumps({"layers": [layer]}))
    (ollama / "blobs").mkdir()
    (ollama / "blobs" / f"sha256-{digest}").write_bytes(DATA)
    studio = home / ".lmstudio/models/pub/repo-GGUF"
    studio.mkdir(parents=True)
    (studio / "m-Q4_K_M.gguf").write_bytes(DATA + b"x")
    monkeypatch.setattr("pagemill.hub.scan.OLLAMA_SERVICE", tmp_path / "nowhere")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PAGEMILL_HOME", str(tmp_path / "store"))
    return home


def pagemill(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})


def names(store: Store) -> list[str]:
    return [str(model.name) for model in store.list()]


def test_scan_shows_a_table_and_adds_what_is_named(home: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    lines = pagemill("import", "--scan").stdout.splitlines()
    assert lines[0].split() == ["NAME", "SIZE", "FORMAT", "WHERE", "ADDED", "AS"]
    rows = [line.split() for line in lines[1:]]
    assert rows == [
        ["llama3:8b", "504", "B", "GGUF", "Ollama,", "~/.ollama/models"],
        # The catalogue's smollm2:135m is another file.
        ["smollm2:135m-2", "504", "B", "GGUF", "Ollama,", "~/.ollama/models"],
        ["hf.co/pub/repo-GGUF", "505", "B", "GGUF", "LM", "Studio,", "~/.lmstudio/models"],
    ]
    assert not store.home.exists()
    done = pagemill("import", "--add", "llama3:8b")
    assert done.exit_code == 0
    assert "llama3:8b is ready (504 B, used where it lies)" in done.stdout
    assert names(store) == ["llama3:8b"]
    # The two names of Ollama are one file.
    told = [line.split()[-1] for line in pagemill("import", "--scan").stdout.splitlines()]
    assert told == ["AS", "llama3:8b", "llama3:8b", "~/.lmstudio/models"]
    assert pagemill("import", "--all").stdout.startswith("hf.co/pub/repo-GGUF is ready")
    assert len(store.list()) == 2
    assert "listed already" in pagemill("import", "--all").stdout


def test_what_is_not_there_cannot_be_added(home: Path) -> None:
    done = pagemill("import", "--add", "qwen9")
    assert done.exit_code == 2
    assert "'qwen9' was not found in other programs; there is: llama3:8b, " in done.stderr
    for entry in (home / ".ollama", home / ".lmstudio"):
        entry.rename(entry.with_suffix(".gone"))
    assert "No models of other programs" in pagemill("import", "--scan").stdout


def test_a_path_in_place_or_as_a_copy(home: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    file = home / ".lmstudio/models/pub/repo-GGUF/m-Q4_K_M.gguf"
    assert pagemill("import", str(file)).exit_code == 0
    assert pagemill("import", str(file.parent), "--name", "mine:1b", "--copy").exit_code == 0
    assert names(store) == ["m-q4_k_m", "mine:1b"]
    assert [model.path == file for model in store.list()] == [True, False]
    wrong = {
        ("import", str(file), "--name", "mine:1b"): "mine:1b is listed already",
        ("import", str(home / "nowhere")): "there is no file or folder",
        ("import", str(home)): "is no model",
        ("import", str(file), "--name", "../x"): "is invalid",
        ("import",): "name a file or folder to import",
    }
    for arguments, message in wrong.items():
        done = pagemill(*arguments)
        assert (done.exit_code, message in done.stderr) == (2, True), done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_what_has_gone_is_said_by_every_command_and_rm_forgets_it(
    home: Path, tmp_path: Path
) -> None:
    file = home / ".lmstudio/models/pub/repo-GGUF/m-Q4_K_M.gguf"
    pagemill("import", str(file), "--name", "mine")
    assert pagemill("verify").stdout == "1 whole\n"
    file.unlink()
    for arguments in (("show", "mine"), ("run", "mine", "hi"), ("serve", "mine", "--check")):
        done = pagemill(*arguments, *(() if arguments[0] == "show" else ("--offline",)))
        assert done.exit_code == 2
        assert "is gone; `pagemill rm mine` forgets it" in done.stderr
    done = pagemill("verify")
    assert done.exit_code == 1
    assert "m-Q4_K_M.gguf, which 'mine' is read from, is gone" in done.stdout
    assert "mine" not in pagemill("list").stdout
    assert pagemill("rm", "mine").stdout == "removed mine\n"
    assert pagemill("verify").stdout == "0 whole\n"
    assert "is not on this machine" in pagemill("rm", "mine").stderr


def test_rm_looks_all_names_up_first_and_deletes_no_path(home: Path, tmp_path: Path) -> None:
    file = home / ".lmstudio/models/pub/repo-GGUF/m-Q4_K_M.gguf"
    pagemill("import", str(file), "--name", "mine")
    for other, message in ((str(file), "is a path of yours"), ("nobody", "is not on this machine")):
        done = pagemill("rm", "mine", other)
        assert (done.exit_code, message in done.stderr) == (2, True)
    assert names(Store(tmp_path / "store")) == ["mine"]
    assert file.exists()


def test_a_revision_is_a_part_of_the_name(home: Path) -> None:
    for arguments in (("pull", "org/repo"), ("run", "org/repo", "hi"), ("serve", "org/repo")):
        done = pagemill(*arguments, "--revision", "v1", "--offline")
        assert done.exit_code == 1
        assert "hf.co/org/repo@v1 is not in the store and offline mode is on" in done.stderr
    assert Name.parse("org/repo").at("v1").revision == "v1"


def test_a_folder_of_a_model_is_taken_as_a_path(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "org/repo"
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert "hf.co/org/repo is not in the store" in pagemill("pull", "org/repo", "--offline").stderr
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"x")
    done = pagemill("pull", "org/repo", "--offline")
    assert "./org/repo is a file or folder of this machine" in done.stderr
