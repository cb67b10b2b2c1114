"""`pagemill quantize`, from the tiny model to a file."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pagemill.cli.app import app
from pagemill.weights.gguf import GGUFFile


def run(*arguments: object) -> "tuple[int, str, str]":
    result = CliRunner().invoke(app, ["quantize", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_writes_the_file_and_says_how_large_it_is(tiny_llama_path: Path, tmp_path: Path) -> None:
    target = tmp_path / "tiny.gguf"
    code, out, err = run(tiny_llama_path, target, "--type", "Q4_k_m", "--threads", 1)
    assert code == 0, err
    size = target.stat().st_size / 1000
    assert out.startswith(f"{target}: {size:.0f} KB, ")
    assert "bits for each of" in out
    assert "quantizing: " in err
    # Rows of 64 and 128 elements fit no block of 256.
    assert "16 of the matrices have rows that are not whole blocks" in err
    with GGUFFile.open(target) as file:
        assert file.tensors["blk.0.attn_q.weight"].format == "Q5_0"


def test_says_that_rounding_adds_up(tiny_llama_path: Path, tmp_path: Path) -> None:
    run(tiny_llama_path, tmp_path / "once.gguf", "--type", "q8_0")
    code, _, err = run(tmp_path / "once.gguf", tmp_path / "twice.gguf", "--type", "q4_0")
    assert code == 0
    assert "was quantized already (Q8_0 " in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no.gguf", "new.gguf", "--type", "q8_0"], "no.gguf"),
        (["MODEL", "there.gguf", "--type", "q8_0"], "'there.gguf' is there already"),
        (["MODEL", "new.gguf", "--type", "q9"], "'q9' is unknown; there are f32, f16"),
        (["MODEL", "new.gguf", "--type", "mxfp4_moe"], "for models with experts"),
        (["./folder", "new.gguf", "--type", "q8_0"], "'model.safetensors': header: the file has 2"),
    ],
)
def test_asked_wrongly(
    arguments: list[str],
    message: str,
    tiny_llama_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.gguf").write_bytes(b"precious")
    (tmp_path / "folder").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "folder" / name).write_text("{}")
    given = [str(tiny_llama_path) if word == "MODEL" else word for word in arguments]
    code, out, err = run(*given)
    assert (code, out) == (2, "")
    assert message in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "there.gguf"]
    assert (tmp_path / "there.gguf").read_bytes() == b"precious"
