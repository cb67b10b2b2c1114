"""Whether transformers is to compute a model, and what to say where it cannot.

Imports none of its libraries: they take seconds to load, and most installations lack them.
"""

import importlib.util
from pathlib import Path
from typing import Final

from pagemill.errors import ConfigError, UnknownArchitecture, Unsupported
from pagemill.fallback.folder import Foreign
from pagemill.weights.load import Checkpoint, Families, open_model
from pagemill.weights.precision import NONE, Precision

BACKEND: Final = "transformers"
LIBRARIES: Final = ("torch", "transformers")
INSTALL: Final = "pip install 'pagemill[transformers]'"


def open_any(
    path: str | Path, families: Families, precision: Precision, backend: str
) -> Checkpoint | Foreign:
    """A model for a network of ours; for transformers if `backend` says so, or if it is "auto" and
    `families` has no such network. Raises as `open_model` does, with the way out if there is one,
    and ConfigError for the backend transformers where its libraries are missing."""
    if backend == BACKEND:
        if missing := _missing():
            raise ConfigError(
                f"backend is {BACKEND}, and {' and '.join(missing)} cannot be found: {INSTALL}",
                param="backend",
            )
        return _foreign(Path(path), precision)
    try:
        return open_model(path, families, precision)
    except UnknownArchitecture as unknown:
        if backend != "auto":
            way = "--backend auto lets transformers compute what Pagemill has no network for"
        elif _missing():
            way = f"transformers computes many others, slower: {INSTALL}"
        else:
            return _foreign(Path(path), precision)
        raise UnknownArchitecture(f"{unknown.message}; {way}") from unknown


def _missing() -> list[str]:
    return [name for name in LIBRARIES if importlib.util.find_spec(name) is None]


def _foreign(path: Path, precision: Precision) -> Foreign:
    if not path.is_dir():
        raise Unsupported(
            f"{path.name}: transformers computes folders with config.json and safetensors files, "
            "not GGUF files"
        )
    if precision.quantization != NONE:
        raise Unsupported(
            f"--quantization {precision.quantization} is for networks of Pagemill's own; "
            "transformers computes in full precision (--dtype)"
        )
    return Foreign.open(path, precision.dtype)
