"""Who computes a model, and what is said where nobody can. Needs neither torch nor transformers."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pagemill import models
from pagemill.errors import ConfigError, UnknownArchitecture, Unsupported
from pagemill.fallback import choice
from pagemill.fallback.choice import INSTALL, LIBRARIES, open_any
from pagemill.fallback.folder import Foreign
from pagemill.weights.load import Checkpoint
from pagemill.weights.precision import Precision
from tests.fallback.folders import stablelm
from tests.weights.safetensors_writer import write_folder

Install = Callable[..., None]
AS_STORED = Precision()


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Have exactly the named libraries."""

    def have(*names: str) -> None:
        class Finder:
            @staticmethod
            def find_spec(name: str) -> object | None:
                return name if name in names else None

        monkeypatch.setattr(choice.importlib, "util", Finder)  # type: ignore[attr-defined]

    return have


def test_transformers_computes_what_we_have_no_network_for(
    install: Install, tmp_path: Path
) -> None:
    install(*LIBRARIES)
    opened = open_any(stablelm(tmp_path / "model"), models, AS_STORED, "auto")
    assert isinstance(opened, Foreign)
    assert (opened.card.architecture, opened.card.through) == ("stablelm", "transformers")


def test_our_own_networks_are_never_left_to_it(install: Install, tmp_path: Path) -> None:
    install(*LIBRARIES)
    opened = open_any(write_folder(tmp_path / "llama"), models, AS_STORED, "auto")
    assert isinstance(opened, Checkpoint) and not opened.card.through


def test_unless_it_is_asked_for(install: Install, tmp_path: Path) -> None:
    install(*LIBRARIES)
    opened = open_any(write_folder(tmp_path / "llama"), models, AS_STORED, "transformers")
    assert isinstance(opened, Foreign) and opened.class_name == "LlamaForCausalLM"


@pytest.mark.parametrize("there", [(), ("torch",), ("transformers",)])
def test_without_the_extra_the_error_says_how_to_get_it(
    install: Install, tmp_path: Path, there: tuple[str, ...]
) -> None:
    install(*there)
    with pytest.raises(UnknownArchitecture) as raised:
        open_any(stablelm(tmp_path / "model"), models, AS_STORED, "auto")
    message = raised.value.message
    assert message.startswith("architecture 'StableLmForCausalLM' is not supported; supported: ")
    assert "LlamaForCausalLM" in message
    assert message.endswith(f"; transformers computes many others, slower: {INSTALL}")


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_backend_that_is_asked_for_is_not_replaced(
    install: Install, tmp_path: Path, backend: str
) -> None:
    install(*LIBRARIES)
    with pytest.raises(UnknownArchitecture, match=r"not supported.*--backend auto lets transf"):
        open_any(stablelm(tmp_path / "model"), models, AS_STORED, backend)


def test_asked_for_and_not_there(install: Install, tmp_path: Path) -> None:
    install("numpy")
    with pytest.raises(ConfigError) as raised:
        open_any(write_folder(tmp_path / "llama"), models, AS_STORED, "transformers")
    assert raised.value.param == "backend"
    assert raised.value.message == (
        f"backend is transformers, and torch and transformers cannot be found: {INSTALL}"
    )


def test_files_that_it_does_not_open(
    install: Install, tmp_path: Path, tiny_llama_path: Path
) -> None:
    install(*LIBRARIES)
    with pytest.raises(Unsupported, match=r"tiny_llama\.gguf: .*folders.* not GGUF files"):
        open_any(tiny_llama_path, models, AS_STORED, "transformers")
    with pytest.raises(Unsupported, match="--quantization int4 is for networks of Pagemill's own"):
        open_any(stablelm(tmp_path / "model"), models, Precision(quantization="int4"), "auto")


def test_an_architecture_of_gguf_files_has_no_such_way_out(
    install: Install, tmp_path: Path
) -> None:
    install()
    with pytest.raises(Unsupported) as raised:
        models.family("stablelm")
    assert INSTALL not in raised.value.message
