"""The whole command line as a user types it: commands, flags, exit codes, and what they load."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.main import get_group
from typer.testing import CliRunner

from pagemill.cli.app import _narrowed, app
from pagemill.cli.boundary import boundary
from pagemill.cli.options import load_settings, with_settings
from pagemill.config import Settings, all_settings
from pagemill.errors import ConfigError, DownloadError

ROOT = Path(__file__).parents[2]
COMMANDS = {command.name or command.callback.__name__ for command in app.registered_commands}  # type: ignore[union-attr]
COMMANDS |= {str(group.typer_instance.info.name) for group in app.registered_groups}  # type: ignore[union-attr]
HEAVY = ("numpy", "torch", "starlette", "uvicorn", "tokenizers", "jinja2", "httpx", "yaml")


def in_a_process(*arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "pagemill", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["serve", "--help"]])
def test_help_and_version_load_nothing_heavy(arguments: list[str]) -> None:
    script = (
        f"import sys; from pagemill.cli import main; main({arguments!r}); "
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_version_needs_no_option_parser() -> None:
    done = in_a_process("--version")
    assert re.fullmatch(r"pagemill \d+\.\d+\.\d+\n", done.stdout)


def test_the_documented_commands_are_the_commands() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    documented = set(re.findall(r"^\| `pagemill (\w+)", page, re.MULTILINE))
    assert documented | {"ls"} == COMMANDS


def test_serve_has_every_setting_as_a_flag() -> None:
    shown = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "200"}).output
    for setting in all_settings():
        assert setting.flag in shown


def settings_of(arguments: list[str], env: dict[str, str]) -> Settings:
    """What a command with all settings is given."""
    seen: list[Settings] = []
    probe = typer.Typer()

    @probe.command()
    @with_settings("engine", "text", "http", "hub")
    def command(*, settings: Settings) -> None:
        seen.append(settings)

    result = CliRunner().invoke(probe, arguments, env=env, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return seen[0]


def test_flag_variable_and_file_agree(tmp_path: Path) -> None:
    file = tmp_path / "pagemill.yaml"
    file.write_text(
        "max-model-len: 2048\nport: 9001\nprefix_caching: false\nkv-cache-memory: 64M\n"
        "api-key: [a, b]\ndrain: 5s\n"
    )
    flags = ["--max-model-len", "2048", "--port", "9001", "--no-prefix-caching"]
    flags += ["--kv-cache-memory", "64M", "--api-key", "a,b", "--drain", "5s"]
    variables = {
        "PAGEMILL_MAX_MODEL_LEN": "2048",
        "PAGEMILL_PORT": "9001",
        "PAGEMILL_PREFIX_CACHING": "no",
        "PAGEMILL_KV_CACHE_MEMORY": "64M",
        "PAGEMILL_API_KEY": "a,b",
        "PAGEMILL_DRAIN": "5s",
    }
    by_flag = settings_of(flags, {})
    assert by_flag.engine.max_model_len == 2048 and by_flag.http.api_key == ("a", "b")
    assert settings_of([], variables) == by_flag
    assert settings_of(["--config", str(file)], {}) == by_flag
    assert settings_of([], {"PAGEMILL_CONFIG": str(file)}) == by_flag


def test_flags_win_over_variables_and_variables_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "pagemill.yaml"
    file.write_text("port: 1\nhost: ::1\nthreads: 3\n")
    settings = settings_of(
        ["--config", str(file), "--port", "3"], {"PAGEMILL_PORT": "2", "PAGEMILL_HOST": "localhost"}
    )
    assert (settings.http.port, settings.http.host, settings.engine.threads) == (3, "localhost", 3)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("prot: 1", "did you mean port"),
        ("port: many", "port in the config file is 'many'"),
        ("- port", "must hold lines of `setting: value`"),
        ("port: [", "is not valid YAML"),
        ("!!python/object/apply:os.system ['true']", "is not valid YAML"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, content: str, complaint: str) -> None:
    file = tmp_path / "pagemill.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=complaint):
        load_settings({}, file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--config .*nowhere\.yaml: No such file"):
        load_settings({}, tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("arguments", "env", "complaint"),
    [
        (["serve", "--port", "http"], {}, "error: --port is 'http'; it must be"),
        (
            ["list"],
            {"PAGEMILL_PROT": "1"},
            "error: environment variable PAGEMILL_PROT is no setting",
        ),
        (
            ["run", "x", "hi", "--temperature", "5"],
            {},
            "error: temperature must be a number from 0",
        ),
        (["run", "x"], {}, "error: nothing was asked"),
        (["show", "../x"], {}, "error: there is no file or folder ../x"),
        (["show", "a/.."], {}, "error: model name 'a/..' is invalid"),
        (["pull", "smollm2", "--revision", "x"], {}, "error: model name 'smollm2@x' is invalid"),
        (["import"], {}, "error: name a file or folder to import"),
    ],
)
def test_wrong_questions_get_one_line_and_code_2(
    tmp_path: Path, arguments: list[str], env: dict[str, str], complaint: str
) -> None:
    done = in_a_process(*arguments, PAGEMILL_HOME=str(tmp_path), **env)
    assert done.returncode == 2
    assert done.stderr.startswith(complaint)
    assert len(done.stderr.splitlines()) == 1 and not done.stdout


def test_ps_without_a_server_says_how_to_start_one() -> None:
    done = in_a_process("ps", "--url", "127.0.0.1:1")
    assert done.returncode == 1
    assert "`pagemill serve` starts one" in done.stderr


def test_failures_have_code_1_and_debug_shows_where(monkeypatch: pytest.MonkeyPatch) -> None:
    @boundary
    def command() -> None:
        raise DownloadError("the index is down")

    monkeypatch.delenv("PAGEMILL_DEBUG", raising=False)
    with pytest.raises(SystemExit) as left:
        command()
    assert left.value.code == 1
    monkeypatch.setenv("PAGEMILL_DEBUG", "1")
    with pytest.raises(DownloadError):
        command()


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    script = f"{sys.executable} -m pagemill serve --help | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert "Traceback" not in done.stderr


def test_a_command_line_makes_the_options_of_its_command_only() -> None:
    for name in ("serve", "list", "import"):
        narrow = _narrowed([name, "--help"])
        assert list(get_group(narrow).commands) == [name]
    for other in ([], ["--help"], ["bench", "serve"], ["nothing"]):
        assert _narrowed(other) is app
