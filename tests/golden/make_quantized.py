"""Makes quantized/*.safetensors: small matrices as other programs quantize them.

Needs torch, transformers and the packages that write such files, none of which the project needs:
run it in an environment of its own and commit the result.

    pip install torch transformers auto-gptq bitsandbytes compressed-tensors
    python tests/golden/make_quantized.py

Each file has the tensors of one module, "layer", its quantization_config as metadata, and
"expected", the matrix in float32 as the package itself dequantizes it.
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

import bitsandbytes.functional as bnb
import numpy as np
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.entrypoints.convert.converters.autoawq import AutoAWQConverter
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import dequantize, quantize
from safetensors.torch import save_file
from transformers.integrations.finegrained_fp8 import _dequantize_fp8_weight
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

FOLDER = Path(__file__).parent / "quantized"
OUTPUTS, INPUTS = 16, 128
Tensors = dict[str, torch.Tensor]


def save(name: str, config: dict[str, Any], tensors: Tensors, expected: torch.Tensor) -> None:
    named = {f"layer.{part}": values.contiguous() for part, values in tensors.items()}
    named["expected"] = expected.float().contiguous()
    FOLDER.mkdir(exist_ok=True)
    save_file(named, FOLDER / f"{name}.safetensors", {"config": json.dumps(config)})


def weights(outputs: int = OUTPUTS, inputs: int = INPUTS) -> torch.Tensor:
    return torch.randn(outputs, inputs) * torch.linspace(0.5, 2, inputs)


def gptq_layer() -> Any:
    """auto-gptq's layer; the package itself cannot be imported beside a new transformers."""
    package = importlib.util.find_spec("auto_gptq")
    path = Path(package.submodule_search_locations[0]) / "nn_modules/qlinear/qlinear_cuda.py"
    spec = importlib.util.spec_from_file_location("qlinear_cuda", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.QuantLinear


def gptq(name: str, bits: int, *, symmetric: bool, act_order: bool) -> None:
    group, outputs = 32, 32  # its packing of zero points wants outputs in whole words
    linear = torch.nn.Linear(INPUTS, outputs, bias=False).half()
    linear.weight.data = weights(outputs).half()
    order = torch.arange(INPUTS) // group
    if act_order:
        order = order[torch.randperm(INPUTS)]
    most = 2**bits - 1
    scales, zeros = torch.empty(outputs, INPUTS // group), torch.empty(outputs, INPUTS // group)
    for number in range(INPUTS // group):
        part = linear.weight.data[:, order == number].float()
        low, high = part.min(1).values.clamp(max=0), part.max(1).values.clamp(min=0)
        if symmetric:
            high = torch.maximum(high, -low)
            low = -high
        scales[:, number] = (high - low) / most
        zero = torch.round(-low / scales[:, number])
        # The packing stores it less one.
        zeros[:, number] = 2 ** (bits - 1) if symmetric else zero.clamp(1, most)
    layer = gptq_layer()(bits, group, INPUTS, outputs, bias=False, weight_dtype=torch.float16)
    layer.pack(linear, scales.half(), zeros, order.int())
    tensors = {part: values.clone() for part, values in layer.state_dict().items()}
    layer.scales = layer.scales.float()
    layer.autogptq_cuda_available = False
    expected = layer(torch.eye(INPUTS)).T
    config = {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": act_order}
    save(name, config | {"sym": symmetric, "checkpoint_format": "gptq"}, tensors, expected)


def awq(name: str) -> None:
    group = 64
    random = torch.Generator().manual_seed(3)
    words = torch.randint(-(2**31), 2**31, (INPUTS + 2, OUTPUTS // 8), generator=random).int()
    qweight, qzeros = words[:INPUTS], words[INPUTS:]
    scales = (torch.rand(INPUTS // group, OUTPUTS, generator=random) + 0.1).half()
    converter = AutoAWQConverter(bits=4, group_size=group)
    quants, scale, zero = converter._convert_gemm_module(qweight, scales, qzeros)
    each = quants.float() - zero.float().repeat_interleave(group, 1)
    expected = each * scale.float().repeat_interleave(group, 1)
    config = {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm"}
    tensors = {"qweight": qweight, "qzeros": qzeros, "scales": scales}
    save(name, config | {"zero_point": True}, tensors, expected)


def compressed(name: str, kind: str, **fields: Any) -> None:
    args = QuantizationArgs(**fields)
    weight = weights(OUTPUTS + 3)  # outputs that are no whole words
    group = args.group_size or INPUTS
    parts = weight.reshape(len(weight), -1, group)
    levels = 2**args.num_bits - 1
    zero = None
    if args.strategy == "block":
        tile = args.block_structure
        rows, columns = -(-len(weight) // tile[0]), -(-INPUTS // tile[1])
        scale = torch.rand(rows, columns) / 100 + 0.005
    elif args.type == "float":
        scale = parts.abs().amax(-1) / 448
    elif args.symmetric:
        scale = parts.abs().amax(-1) * 2 / levels
    else:
        low, high = parts.amin(-1), parts.amax(-1)
        scale = (high - low) / levels
        zero = torch.round(-low / scale - 2 ** (args.num_bits - 1)).to(torch.int8)
    scale = scale.bfloat16().float()
    dtype = torch.float8_e4m3fn if args.type == "float" else torch.int8
    if args.strategy == "block":  # its own quantization wants whole blocks
        each = scale.repeat_interleave(tile[0], 0).repeat_interleave(tile[1], 1)
        quants = (weight / each[: len(weight), :INPUTS]).clamp(-448, 448).to(dtype)
        expected = quants.float() * each[: len(weight), :INPUTS]
    else:
        quants = quantize(weight, scale, zero, args, dtype=dtype)
        expected = dequantize(quants, scale, zero, args, dtype=torch.float32)
    tensors: Tensors = {"weight_scale": scale.bfloat16()}
    if kind == "pack-quantized":
        tensors["weight_packed"] = pack_to_int32(quants, args.num_bits)
        tensors["weight_shape"] = torch.tensor(weight.shape)
        if zero is not None:
            tensors["weight_zero_point"] = pack_to_int32(zero, args.num_bits, packed_dim=0)
    else:
        tensors["weight"] = quants
        if zero is not None:
            tensors["weight_zero_point"] = zero
    groups = {"group_0": {"targets": ["Linear"], "weights": json.loads(args.model_dump_json())}}
    config = {"quant_method": "compressed-tensors", "format": kind, "config_groups": groups}
    save(name, config | {"ignore": ["lm_head"]}, tensors, expected)


def fp8(name: str, tile: int) -> None:
    weight = weights(OUTPUTS, 96)  # no whole tiles
    rows, columns = -(-OUTPUTS // tile), -(-96 // tile)
    scale = torch.rand(rows, columns) / 100 + 0.005
    each = scale.repeat_interleave(tile, 0).repeat_interleave(tile, 1)[:OUTPUTS, :96]
    quants = (weight / each).clamp(-448, 448).to(torch.float8_e4m3fn)
    expected = _dequantize_fp8_weight(quants, scale, [tile, tile], torch.float32)
    config = {"quant_method": "fp8", "weight_block_size": [tile, tile]}
    save(name, config, {"weight": quants, "weight_scale_inv": scale}, expected)


def fbgemm(name: str) -> None:
    weight = weights()
    scale = weight.abs().amax(1, keepdim=True) / 448
    quants = (weight / scale).to(torch.float8_e4m3fn)
    tensors = {"weight": quants, "weight_scale": scale, "input_scale_ub": torch.tensor([1200.0])}
    save(name, {"quant_method": "fbgemm_fp8"}, tensors, quants.float() * scale)


def four_bits(name: str, kind: str, *, nested: bool) -> None:
    quants, state = bnb.quantize_4bit(weights(), quant_type=kind, compress_statistics=nested)
    expected = bnb.dequantize_4bit(quants, state)
    tensors = {"weight": quants}
    tensors |= {f"weight.{part}": values for part, values in state.as_dict(packed=True).items()}
    config = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": kind}
    save(name, config, tensors, expected)


def int8(name: str) -> None:
    quants, scale, _ = bnb.int8_vectorwise_quant(weights().half())
    tensors = {"weight": quants, "SCB": scale, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    config = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    save(name, config, tensors, bnb.int8_vectorwise_dequant(quants, scale))


def mxfp4(name: str) -> None:
    random = np.random.default_rng(5)
    blocks = torch.tensor(random.integers(0, 256, (2, OUTPUTS, INPUTS // 32, 16), dtype=np.uint8))
    scales = torch.tensor(random.integers(110, 130, (2, OUTPUTS, INPUTS // 32), dtype=np.uint8))
    values = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    if values.shape[1] == INPUTS:  # it gives inputs first
        values = values.transpose(1, 2)
    tensors = {"weight_blocks": blocks, "weight_scales": scales}
    save(name, {"quant_method": "mxfp4"}, tensors, values)


def main() -> None:
    torch.manual_seed(11)
    for bits in (2, 3, 4, 8):
        gptq(f"gptq_{bits}", bits, symmetric=False, act_order=False)
    gptq("gptq_4_symmetric", 4, symmetric=True, act_order=False)
    gptq("gptq_4_act_order", 4, symmetric=False, act_order=True)
    awq("awq")
    packed = "pack-quantized"
    grouped = {"strategy": "group", "group_size": 32}
    compressed("packed_4", packed, num_bits=4, symmetric=True, **grouped)
    compressed("packed_4_zeros", packed, num_bits=4, symmetric=False, **grouped)
    compressed("packed_8", packed, num_bits=8, symmetric=True, strategy="channel")
    compressed("packed_3", packed, num_bits=3, symmetric=True, **grouped)
    compressed("int_8", "int-quantized", num_bits=8, symmetric=True, strategy="channel")
    compressed("int_8_zeros", "int-quantized", num_bits=8, symmetric=False, strategy="channel")
    floating = {"num_bits": 8, "type": "float", "symmetric": True}
    compressed("float_8", "float-quantized", strategy="channel", **floating)
    tiles = {"strategy": "block", "block_structure": [32, 64]}
    compressed("float_8_tiles", "float-quantized", **tiles, **floating)
    fp8("fp8_tiles", 64)
    fbgemm("fbgemm")
    four_bits("nf4", "nf4", nested=False)
    four_bits("nf4_nested", "nf4", nested=True)
    int8("llm_int8")
    mxfp4("mxfp4")
    compressed("packed_6", packed, num_bits=6, symmetric=True, **grouped)
    four_bits("fp4", "fp4", nested=False)


if __name__ == "__main__":
    main()
