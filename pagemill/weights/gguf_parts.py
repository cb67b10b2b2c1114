"""A model's GGUF file, or all parts of one that was split, as one set of tensors.

The parts of a split model are called NAME-00001-of-00003.gguf and so on, and each says in its
metadata which part it is. Whichever of them is opened, all are; the first has the model's metadata.
Must not know: what a key or a tensor means, besides the three keys of the split.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pagemill.errors import BadModelFile
from pagemill.weights.cursor import LIMITS, show
from pagemill.weights.gguf import GGUFFile, TensorInfo
from pagemill.weights.keys import MetadataKeys

NUMBER, COUNT, TENSORS = "split.no", "split.count", "split.tensors.count"


class GGUFParts:
    """The open GGUF files of one model. `data` gives views of them; no tensor is copied."""

    def __init__(self, files: tuple[GGUFFile, ...]) -> None:
        """`files` in the order of their numbers; no tensor is in two of them."""
        self._files = files
        self._homes = {name: file for file in files for name in file.tensors}
        self.metadata: Mapping[str, Any] = files[0].metadata
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType(
            {name: file.tensors[name] for name, file in self._homes.items()}
        )

    @classmethod
    def open(cls, path: str | Path) -> "GGUFParts":
        """Open `path` and, if it is a part, all others with it. BadModelFile says what is wrong and
        in which file."""
        path = Path(path)
        file = GGUFFile.open(path)
        count = _keys(file, path).whole(COUNT, 0, LIMITS.parts, 0)
        return cls((file,) if count <= 1 else _open_all(file, path, count))

    def data(self, name: str) -> NDArray[np.uint8]:
        """The bytes of a tensor as a read-only view of its file. KeyError when there is none."""
        return self._homes[name].data(name)

    def encoded(self, key: str) -> bytes:
        """A value of the metadata as `GGUFFile.encoded` has it."""
        return self._files[0].encoded(key)

    def close(self) -> None:
        """Let go of the files. Views handed out stay valid."""
        for file in self._files:
            file.close()

    def __enter__(self) -> "GGUFParts":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _keys(file: GGUFFile, path: Path) -> MetadataKeys:
    return MetadataKeys(file.metadata, show(path.name))


def _open_all(file: GGUFFile, path: Path, count: int) -> tuple[GGUFFile, ...]:
    """All `count` parts, of which `file` at `path` is one."""
    own = _keys(file, path).whole(NUMBER, 0, count - 1)
    paths = _paths(path, own, count)
    missing = [part for part in paths if not part.exists()]
    if missing:
        raise BadModelFile(
            f"{show(missing[0].name)}: no such file; {show(path.name)} is one of {count} parts, "
            f"{len(missing)} of them missing"
        )
    files = tuple(
        file if number == own else GGUFFile.open(part) for number, part in enumerate(paths)
    )
    total = _keys(file, path).whole(TENSORS, 1, LIMITS.tensors)
    homes: dict[str, Path] = {}
    for number, (part, part_path) in enumerate(zip(files, paths, strict=True)):
        keys = _keys(part, part_path)
        for key, expected in ((NUMBER, number), (COUNT, count), (TENSORS, total)):
            if (found := keys.whole(key, 0, LIMITS.tensors)) != expected:
                raise keys.bad(key, f"is {found}, not {expected} as {show(path.name)} has it")
        for tensor in part.tensors:
            if tensor in homes:
                raise BadModelFile(
                    f"{show(part_path.name)}: tensor {show(tensor)} is in "
                    f"{show(homes[tensor].name)} too"
                )
            homes[tensor] = part_path
    if len(homes) != total:
        raise _keys(file, path).bad(TENSORS, f"is {total}, but the parts hold {len(homes)}")
    return files


def _paths(path: Path, number: int, count: int) -> list[Path]:
    """Where the parts are, given where one of them is."""
    own = _ending(number, count)
    if not path.name.endswith(own):
        raise BadModelFile(
            f"{show(path.name)}: is part {number + 1} of {count} but not called NAME{own}, "
            "by which the others would be found"
        )
    name = path.name.removesuffix(own)
    return [path.with_name(name + _ending(other, count)) for other in range(count)]


def _ending(number: int, count: int) -> str:
    return f"-{number + 1:05}-of-{count:05}.gguf"
