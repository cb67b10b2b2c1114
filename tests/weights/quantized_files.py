"""The golden files of quantized matrices, whole or with something changed."""

import json
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from pagemill.weights import quantized
from pagemill.weights.folder import Folder
from pagemill.weights.safetensors import SafetensorsFile
from pagemill.weights.source import Stored
from tests.weights.safetensors_writer import CONFIG, file_of

GOLDEN = Path(__file__).parents[1] / "golden" / "quantized"
DTYPES = {"F32": "<f4", "F16": "<f2", "I32": "<i4", "I64": "<i8", "U8": "|u1", "I8": "|i1"}
DTYPES |= {"BF16": "<u2", "F8_E4M3": "|u1"}


class Golden:
    """A file of tests/golden/quantized, whose tensors can be changed before they are read."""

    def __init__(self, name: str) -> None:
        path = GOLDEN / f"{name}.safetensors"
        file = SafetensorsFile.open(path)
        raw = path.read_bytes()
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        self.config: dict[str, Any] = json.loads(header["__metadata__"]["config"])
        self.dtypes = {name: info.dtype for name, info in file.tensors.items()}
        self.tensors: dict[str, NDArray[Any]] = {
            name: file.data(name).view(DTYPES[info.dtype]).reshape(info.shape)
            for name, info in file.tensors.items()
        }
        self.expected = self.tensors.pop("expected")

    def matrices(self, folder: Path) -> dict[str, Stored]:
        config = {**CONFIG, "quantization_config": self.config or None}
        (folder / "config.json").write_text(json.dumps(config))
        content = file_of(self.tensors, self.dtypes)
        (folder / "model.safetensors").write_bytes(content)
        return dict(quantized.matrices(Folder.open(folder)))

    def matrix(self, folder: Path) -> Stored:
        (found,) = self.matrices(folder).values()
        return found
