"""The shape of the code: who may import whom, how long a file and a function may be."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pagemill"
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST_FILE, LONGEST_FUNCTION, MOST_PARAMETERS = 400, 60, 8

VOCABULARY = {"types", "errors"}
SETTINGS = VOCABULARY | {"config"}
EVERYTHING = {""}
# Each room, and what of ours its modules may import beside their own room. The longest name wins;
# "" is all.
MAY_IMPORT: dict[str, set[str]] = {
    "types": set(),
    "errors": set(),
    "config": {"errors", "quantities"},
    "quantities": set(),
    "small_files": {"errors"},
    "__init__": set(),
    "__main__": EVERYTHING,
    "cli": EVERYTHING,
    "runtime": EVERYTHING,
    "worker": VOCABULARY | {"engine", "fallback", "models", "ops", "parallel", "weights"},
    "machine": {"types", "gpus"},
    "gpus": {"types"},
    "backends": SETTINGS | {"gpus"},
    "footprint": VOCABULARY | {"engine", "fallback", "models", "ops", "weights"},
    "fallback": VOCABULARY | {"ops.interface", "weights"},
    "conversion": VOCABULARY | {"models", "ops", "text", "weights"},
    "server": SETTINGS | {"text", "hub", "runtime"},
    "engine": VOCABULARY | {"decoding", "ops.interface"},
    "decoding": VOCABULARY | {"ops.interface"},
    "parallel": VOCABULARY
    | {"checkpoint", "engine", "models", "ops.interface", "weights", "worker"},
    "models": VOCABULARY | {"ops.interface", "checkpoint"},
    "ops": VOCABULARY | {"weights.formats"},
    "ops.interface": set(),
    "weights": VOCABULARY | {"ops.interface", "checkpoint", "small_files"},
    "checkpoint": VOCABULARY | {"ops.interface"},
    "weights.formats": set(),
    "text": SETTINGS | {"small_files"},
    "hub": SETTINGS,
    "bench": SETTINGS | {"machine"},
    "bench.kernels": VOCABULARY | {"bench", "ops", "weights.formats"},
    "bench.gpu": VOCABULARY | {"bench", "checkpoint", "engine", "models", "ops", "weights"},
}
ARRAY_LIBRARIES = {"numpy", "torch", "triton", "jax", "ml_dtypes"}
TORCH_HOMES = (
    *("ops.cuda", "ops.expert_products", "ops.graphs", "ops.plain", "ops.products"),
    *("ops.residual", "ops.triton"),
    *("parallel", "fallback"),
    "bench.gpu",  # times kernels beside torch's own calls; nothing that serves imports it
)
# The second is a peer that is measured.
TRANSFORMERS_HOMES = ("fallback", "bench.gpu.peer")
# Of the fallback these are read wherever a model is opened, so they load nothing heavy.
LIGHT = ("fallback.choice", "fallback.folder")
DIALECTS = (
    *("server.openai", "server.ollama", "server.anthropic"),
    *("server.embeddings", "server.rerank", "server.classify"),
)


def module_of(path: Path) -> str:
    """ "engine.pages" for pagemill/engine/pages.py; a package is its folder's name."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_of(path): path for path in FILES}


def within(module: str, room: str) -> bool:
    return room == "" or module == room or module.startswith(room + ".")


def imports(path: Path) -> Iterator[str]:
    """Full names of the modules that a file imports, at any depth of the file."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                is_module = inner.removeprefix("pagemill.") in MODULES
                yield inner if is_module else base


def ours(path: Path) -> set[str]:
    """Imports within the package, as "engine.pages"."""
    names = {name for name in imports(path) if within(name, "pagemill")}
    return {name.removeprefix("pagemill").lstrip(".") or "__init__" for name in names}


@pytest.mark.parametrize("module", MODULES)
def test_rooms_import_only_what_they_may(module: str) -> None:
    rooms = [room for room in MAY_IMPORT if within(module, room)]
    assert rooms, f"{module} is in no room that MAY_IMPORT knows"
    room = max(rooms, key=len)
    allowed = {room, "__init__"} | MAY_IMPORT[room]
    for name in sorted(ours(MODULES[module])):
        assert any(within(name, other) for other in allowed), f"{module} imports {name}"


def test_only_the_edges_know_the_edges() -> None:
    for module, path in MODULES.items():
        if not within(module, "cli") and module != "__main__":
            assert not any(within(name, "cli") for name in ours(path)), module
        if not any(within(module, edge) for edge in ("cli", "server", "__main__")):
            assert not any(within(name, "server") for name in ours(path)), module


def test_dialects_do_not_know_each_other() -> None:
    for module, path in MODULES.items():
        mine = [dialect for dialect in DIALECTS if module.startswith(dialect)]
        for other in (dialect for dialect in DIALECTS if mine and dialect not in mine):
            assert not any(name.startswith(other) for name in ours(path)), module


def test_what_dialects_share_knows_none_of_them() -> None:
    for module, path in MODULES.items():
        if module != "server.app" and not module.startswith(DIALECTS):
            assert not any(name.startswith(DIALECTS) for name in ours(path)), module


def test_the_vocabulary_needs_the_standard_library_only() -> None:
    names = ("types", "errors", "config", "machine", "gpus", "engine.plan", "engine.ranks")
    for module in (*names, "engine.devices", "engine.kv_types"):
        foreign = {name.split(".")[0] for name in imports(MODULES[module])} - {"pagemill"}
        assert foreign <= sys.stdlib_module_names, module


def test_models_import_no_array_library() -> None:
    for module, path in MODULES.items():
        if within(module, "models"):
            assert not {name.split(".")[0] for name in imports(path)} & ARRAY_LIBRARIES, module


def test_torch_has_few_homes_and_transformers_one() -> None:
    for module, path in MODULES.items():
        foreign = {name.split(".")[0] for name in imports(path)}
        if module in LIGHT or not any(within(module, home) for home in TORCH_HOMES):
            assert not foreign & {"torch", "triton"}, module
        if module in LIGHT or not any(within(module, home) for home in TRANSFORMERS_HOMES):
            assert not foreign & {"transformers", "safetensors", "accelerate"}, module


def test_the_heavy_part_of_the_fallback_is_imported_by_the_engine_process_alone() -> None:
    for module, path in MODULES.items():
        if not within(module, "fallback") and module != "worker":
            fallback = {name for name in ours(path) if within(name, "fallback")}
            assert fallback <= set(LIGHT), module


def test_opening_a_model_loads_no_foreign_library() -> None:
    golden = ROOT / "tests" / "golden" / "tiny_llama.gguf"
    program = (
        "import sys; from pagemill.config import EngineConfig; "
        "from pagemill.runtime import open_as_asked; import pagemill.worker; "
        f"open_as_asked(EngineConfig(), {str(golden)!r}); "
        "print('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def is_kernel(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    made_by = [ast.unparse(decorator).partition("(")[0] for decorator in node.decorator_list]
    return "triton.jit" in made_by


@pytest.mark.parametrize("module", MODULES)
def test_files_and_functions_stay_short(module: str) -> None:
    text = MODULES[module].read_text("utf-8")
    assert len(text.splitlines()) <= LONGEST_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            # A kernel's addresses and strides are lines of their own, and do not count as its.
            start = node.body[0].lineno if is_kernel(node) else node.lineno
            assert (node.end_lineno or 0) - start < LONGEST_FUNCTION, node.name
            arguments = node.args
            count = len([*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs])
            # One more for self. Parameters of a command are its flags, as many as it has.
            free = within(module, "cli") or is_kernel(node)
            assert count <= MOST_PARAMETERS + 1 or free, node.name


@pytest.mark.parametrize("module", MODULES)
def test_every_module_says_what_it_is(module: str) -> None:
    assert ast.get_docstring(ast.parse(MODULES[module].read_text("utf-8"))), module


@pytest.mark.parametrize("arguments", [["-c", "import pagemill"], ["-m", "pagemill", "--help"]])
def test_the_front_door_loads_nothing_heavy(arguments: list[str]) -> None:
    command = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert not loaded & {"numpy", "torch"}
