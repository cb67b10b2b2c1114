"""The files of a Hugging Face folder: its config.json and the tensors of all its safetensors files.

Opens nothing but *.json and *.safetensors: what else lies there (code, pickles) is never touched.
Must not know: what a setting or a tensor means.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pagemill.errors import BadModelFile, Unsupported
from pagemill.small_files import read_json
from pagemill.weights.cursor import show
from pagemill.weights.safetensors import SafetensorsFile, StoredTensor

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_MOST_INDEX_BYTES = 64 << 20
_MOST_SHARDS = 1 << 12
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack")


@dataclass(frozen=True, slots=True)
class Folder:
    """An open folder. `data` gives views of mapped files; no tensor is copied."""

    name: str  # for messages
    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]
    _files: Mapping[str, SafetensorsFile]  # by tensor

    @classmethod
    def open(cls, path: Path) -> "Folder":
        """Read config.json and the headers of all files with tensors."""
        name = show(path.name or str(path))
        if not (path / "config.json").exists():
            raise BadModelFile(f"{name}: the folder has no config.json{_hint(path)}")
        config = read_json(path / "config.json")
        tensors: dict[str, StoredTensor] = {}
        files: dict[str, SafetensorsFile] = {}
        index = _index(path, name)
        for file_name in _file_names(path, name, index):
            file = SafetensorsFile.open(path / file_name)
            for tensor, info in file.tensors.items():
                if tensor in tensors:
                    raise BadModelFile(
                        f"{name}: tensor {show(tensor)} is in {show(file_name)} and in another file"
                    )
                tensors[tensor], files[tensor] = info, file
        for tensor in index:
            if tensor not in tensors:
                raise BadModelFile(
                    f"{name}: {_INDEX} has tensor {show(tensor)}, which is in no file"
                )
        return cls(name, path, config, MappingProxyType(tensors), MappingProxyType(files))

    def data(self, tensor: str) -> NDArray[np.uint8]:
        """The bytes of a tensor as a read-only view of its file. KeyError when there is none."""
        return self._files[tensor].data(tensor)


def _index(path: Path, name: str) -> Mapping[str, str]:
    """Which file each tensor is in; empty for a folder with one file."""
    if (path / _SINGLE).exists() or not (path / _INDEX).exists():
        return {}
    index = read_json(path / _INDEX, _MOST_INDEX_BYTES).get("weight_map")
    if not isinstance(index, dict) or not index:
        raise BadModelFile(f"{name}: {_INDEX}: 'weight_map' is not an object with tensors")
    for tensor, file_name in index.items():
        if not isinstance(file_name, str) or not _is_plain(file_name):
            raise BadModelFile(
                f"{name}: {_INDEX}: tensor {show(tensor)} is in {show(str(file_name))}, "
                "which is not the name of a *.safetensors file of the folder"
            )
    return index


def _is_plain(file_name: str) -> bool:
    odd = any(letter in "/\\:\0" for letter in file_name)
    return file_name.endswith(".safetensors") and not odd and not file_name.startswith(".")


def _file_names(path: Path, name: str, index: Mapping[str, str]) -> list[str]:
    """Names of the files that hold the tensors."""
    if index:
        file_names = sorted(set(index.values()))
        if len(file_names) > _MOST_SHARDS:
            raise BadModelFile(
                f"{name}: {_INDEX} names {len(file_names)} files, the limit is {_MOST_SHARDS}"
            )
        for file_name in file_names:
            if not (path / file_name).exists():
                raise BadModelFile(
                    f"{name}: file {show(file_name)}, which {_INDEX} names, is missing"
                )
        return file_names
    if (path / _SINGLE).exists():
        return [_SINGLE]
    found = sorted(file.name for file in path.glob("*.safetensors"))
    if not found:
        what = f"{name}: the folder has no *.safetensors file{_hint(path)}"
        raise Unsupported(what) if _hint(path) else BadModelFile(what)
    if len(found) > 1:
        raise BadModelFile(
            f"{name}: the folder has {len(found)} *.safetensors files and neither {_INDEX} nor "
            f"{_SINGLE}"
        )
    return found


def _hint(path: Path) -> str:
    """What lies there instead, that is read otherwise or not at all."""
    names = sorted(file.name for file in path.iterdir())
    for file_name in names:
        if file_name.endswith(".gguf"):
            return f"; {show(file_name)} is opened by its own name"
    for file_name in names:
        if file_name.endswith(_PICKLES):
            return (
                f"; {show(file_name)} is never opened, because reading such a file can run code: "
                "safetensors and GGUF are"
            )
    return ""
