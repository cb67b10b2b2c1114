"""`pagemill create` as a user types it, from Modelfile to an answer."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pagemill import hub
from pagemill.cli.app import app
from pagemill.hub.names import Name
from pagemill.hub.store import Store
from pagemill.weights.gguf import GGUFFile
from tests.test_conversion import GOLDEN, TEMPLATE, tokenizer_json


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("PAGEMILL_HOME", str(tmp_path / "store"))
    monkeypatch.setenv("PAGEMILL_OFFLINE", "1")
    return Store(tmp_path / "store")


@pytest.fixture
def modelfile(tmp_path: Path, tiny_llama_path: Path) -> Path:
    """Beside the model that it is made from."""
    shutil.copy(tiny_llama_path, tmp_path / "base.gguf")
    path = tmp_path / "Modelfile"
    path.write_text(
        "FROM base.gguf\nPARAMETER temperature 0\nPARAMETER num_predict 3\n"
        'PARAMETER stop "<|im_end|>"\nSYSTEM Be brief.\nMESSAGE user hi\nMESSAGE assistant yes\n'
        "LICENSE MIT\n"
    )
    return path


def pagemill(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_from_a_modelfile_to_an_answer(store: Store, modelfile: Path) -> None:
    done = pagemill("create", "brief:tiny", "-f", modelfile)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("brief:tiny is ready (")
    assert "brief:tiny" in pagemill("list").stdout
    shown = pagemill("show", "brief:tiny").stdout
    assert f"  created from    {modelfile.parent}/base.gguf\n" in shown
    assert "  system message  'Be brief.'\n  begins with     2 messages\n" in shown
    assert "  temperature         0                        what it was created with\n" in shown
    assert "  top_k               0                        built-in\n" in shown
    assert "  stop ids            " in shown
    assert pagemill("show", "brief:tiny", "--license").stdout == "MIT\n"
    (modelfile.parent / "base.gguf").unlink()  # it was copied in
    answers = {pagemill("run", "brief:tiny", "hello").stdout for _ in range(2)}
    assert len(answers) == 1
    assert answers != {""}
    assert pagemill("rm", "brief:tiny").exit_code == 0
    assert not list((store.home / "blobs").iterdir())


def test_a_created_model_is_a_base_too(store: Store, modelfile: Path) -> None:
    pagemill("create", "one", "-f", modelfile)
    more = modelfile.with_name("More")
    more.write_text("FROM one\nPARAMETER top_k 5\nSYSTEM Be long.\n")
    assert pagemill("create", "two", "-f", more, "--quantize", "q8_0").exit_code == 0
    assert pagemill("rm", "one").exit_code == 0
    shown = pagemill("show", "two").stdout
    for line in (
        "  quantization    Q8_0\n",
        "  system message  'Be long.'\n",
        "  temperature         0                        what it was created with\n",
        "  top_k               5                        what it was created with\n",
    ):
        assert line in shown
    assert pagemill("verify").exit_code == 0
    plain = modelfile.with_name("plain.gguf")
    told = pagemill("quantize", "two", plain, "--type", "f16").stderr
    assert "Not in the file: what two was created with" in told
    assert "was quantized already" in told


def test_a_folder_becomes_a_model_of_the_store(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(GOLDEN / "llama" / name, folder)
    (folder / "tokenizer.json").write_text(tokenizer_json())
    config = {"eos_token": "</s>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert pagemill("create", "whole", "--from", folder).exit_code == 0
    done = pagemill("create", "small", "--from", "whole", "-q", "q8_0")
    assert done.exit_code == 0, done.stderr
    whole, small = (hub.resolve(name, store) for name in ("whole", "small"))
    assert whole is not None
    assert small is not None
    assert sorted(path.name for path in whole.path.iterdir()) == sorted(
        path.name for path in folder.iterdir()
    )
    with GGUFFile.open(small.path) as file:
        assert file.metadata["general.name"] == "small"
        assert file.tensors["blk.0.attn_q.weight"].format == "Q8_0"
    assert str(small.source) == "created from whole"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["new"], "name the model to begin with: --from MODEL, or -f Modelfile"),
        (["new", "--from", "x", "-f", "Modelfile"], "name the model to begin with"),
        (["smollm2", "-f", "Modelfile"], "is a name of the catalogue"),
        (["new", "-f", "Nofile"], "'Nofile': No such file"),
        (["new", "-f", "Modelfile", "-q", "q9"], "type 'q9' is unknown"),
        (["new", "--from", "./no.gguf"], "there is no file or folder ./no.gguf"),
        (["new", "-f", "Stop"], "line 2: PARAMETER stop 'END' cannot be honoured"),
    ],
)
def test_asked_wrongly(
    store: Store,
    modelfile: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: "list[str]",
    message: str,
) -> None:
    monkeypatch.chdir(modelfile.parent)
    modelfile.with_name("Stop").write_text("FROM ./base.gguf\nPARAMETER stop END\n")
    done = pagemill("create", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr
    assert store.find(Name.parse("new")) is None
