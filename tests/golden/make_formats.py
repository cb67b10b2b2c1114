"""Makes formats.npz, the golden blocks of tests/weights/test_formats.py.

Needs a package that the project does not: run it in an environment of its own and commit the
result.

    python -m venv /tmp/golden && /tmp/golden/bin/pip install gguf
    /tmp/golden/bin/python tests/golden/make_formats.py

For each format: `<name>.values`, what the `gguf` package makes of the first of its random blocks,
and `<name>.crc`, of what it makes of all of them.
"""

import zlib
from pathlib import Path

import gguf
import numpy as np
from random_blocks import MASKS, random_blocks

HERE = Path(__file__).parent
BLOCKS = 200


def main() -> None:
    golden: dict[str, np.ndarray] = {}
    for name in MASKS:
        kind = gguf.GGMLQuantizationType[name]
        blocks = random_blocks(name, BLOCKS, gguf.GGML_QUANT_SIZES[kind][1])
        values = gguf.quants.dequantize(blocks, kind).astype("<f4")
        assert np.isfinite(values).all()
        golden[f"{name}.values"] = values[0]
        golden[f"{name}.crc"] = np.array([BLOCKS, zlib.crc32(values.tobytes())], np.int64)
    np.savez_compressed(HERE / "formats.npz", **golden)


if __name__ == "__main__":
    main()
