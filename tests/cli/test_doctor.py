"""doctor: every check answers in words, and what is broken has a fix."""

import socket
from pathlib import Path

import pytest

from pagemill import gpus
from pagemill.cli import doctor
from pagemill.cli.doctor import Finding
from pagemill.config import HttpConfig, HubConfig, Settings
from pagemill.server.address import port_problem
from pagemill.types import Gpu


def settings(tmp_path: Path, port: int) -> Settings:
    return Settings(http=HttpConfig(port=port), hub=HubConfig(home=tmp_path))


def test_every_check_answers_in_words(tmp_path: Path) -> None:
    subjects = [finding.subject for finding in doctor.examine(settings(tmp_path, 0))]
    assert subjects[:5] == ["pagemill", "processor", "kernels", "memory", "store"]


@pytest.mark.parametrize(
    ("build", "state", "words"),
    [
        ("cuda", "ok", "NVIDIA H200, 140 GB free of 150 GB, compute capability 9.0"),
        ("cpu", "note", "built without GPUs"),
        ("", "note", "torch is not installed"),
    ],
)
def test_gpus_are_described(
    monkeypatch: pytest.MonkeyPatch, build: str, state: str, words: str
) -> None:
    card = Gpu("NVIDIA H200", 140 << 30, 130 << 30, (9, 0))
    monkeypatch.setattr(gpus, "seen", lambda: (card,))
    monkeypatch.setattr(gpus, "torch_build", lambda: build)
    [finding] = doctor.gpu()
    assert finding.state == state and words in finding.words
    assert bool(finding.fix) == (state == "note")


def test_a_machine_without_gpus_needs_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "seen", lambda: ())
    assert doctor.gpu() == []


def test_report_names_the_fix_and_counts_what_is_broken() -> None:
    text, code = doctor.report(
        [Finding("ok", "memory", "enough"), Finding("broken", "store", "gone", "make it")]
    )
    assert code == 1
    assert text == (
        "ok     memory:     enough\n"
        "BROKEN store:      gone\n"
        "                   -> make it\n"
        "\n"
        "1 thing(s) to repair."
    )
    assert doctor.report([Finding("note", "memory", "little", "close programs")])[1] == 0


def test_a_store_that_cannot_be_written_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    [finding] = doctor.store(tmp_path / "new")
    assert finding.state == "broken" and "PAGEMILL_HOME" in finding.fix


def test_a_port_taken_by_a_stranger_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        assert f"port {port}: Address already in use" in port_problem("127.0.0.1", port)
    [finding] = doctor.address(settings(tmp_path, port))
    assert finding.words == f"not running; http://127.0.0.1:{port} is free"


def test_an_address_of_another_machine_is_broken(tmp_path: Path) -> None:
    chosen = Settings(http=HttpConfig(host="192.0.2.1"), hub=HubConfig(home=tmp_path))
    [finding] = doctor.address(chosen)
    assert finding.state == "broken" and "--host" in finding.fix
