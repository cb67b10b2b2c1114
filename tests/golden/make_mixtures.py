"""Makes mixtures.json: which format llama.cpp gives each tensor of some networks.

Needs the package `gguf` and llama.cpp's program: run it in an environment of its own and commit the
result.

    python -m venv /tmp/golden && /tmp/golden/bin/pip install gguf
    /tmp/golden/bin/python tests/golden/make_mixtures.py llama.cpp/build/bin/llama-quantize
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np
from networks import NETWORKS, Shape, brief, shapes

HERE = Path(__file__).parent
MIXTURES = [
    "f16", "bf16", "q8_0", "q6_K", "q5_K_M", "q5_K_S", "q5_1", "q5_0", "q4_K_M", "q4_K_S", "iq4_nl",
    "q4_1", "q4_0", "mxfp4_moe", "q3_K_L", "q3_K_M", "q3_K_S", "q2_K", "tq2_0", "tq1_0",
]  # fmt: skip


def write_model(network: Shape, path: Path) -> None:
    writer = gguf.GGUFWriter(path, network.architecture)
    writer.add_block_count(network.layers)
    writer.add_context_length(128)
    writer.add_embedding_length(network.k)
    writer.add_feed_forward_length(network.k)
    writer.add_head_count(network.heads)
    writer.add_head_count_kv(network.kv_heads)
    writer.add_layer_norm_eps(1e-5)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(network.k // network.heads)
    if network.experts:
        writer.add_expert_count(network.experts)
        writer.add_expert_used_count(2)
    for name, shape in shapes(network).items():
        writer.add_tensor(name, np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main(program: str) -> None:
    golden: dict[str, dict[str, dict[str, str]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "source.gguf", Path(folder) / "target.gguf"
        for title, network in NETWORKS.items():
            write_model(network, source)
            golden[title] = {}
            for mixture in MIXTURES:
                if mixture == "mxfp4_moe" and not network.experts:
                    continue  # makes Q8_0 of everything
                command = [program, source, target, mixture.upper(), "2"]
                subprocess.run(command, check=True, capture_output=True)
                tensors = gguf.GGUFReader(target).tensors
                formats = {tensor.name: tensor.tensor_type.name for tensor in tensors}
                golden[title][mixture] = brief(formats)
    text = json.dumps(golden, separators=(",", ":"))
    (HERE / "mixtures.json").write_text(text.replace('},"', '},\n"') + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
