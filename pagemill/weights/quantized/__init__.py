"""Quantized folders: the tensors of a module as one stored matrix, in our formats.

One module for each method; which one it is, and its settings, are read from the folder. Must not
know: GGUF's names, networks.
"""

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType

from pagemill.small_files import read_json
from pagemill.weights.folder import Folder
from pagemill.weights.keys import ConfigKeys
from pagemill.weights.quantized.tensors import Tensors
from pagemill.weights.source import Stored

# Its name in config.json -> the module here.
_METHODS = MappingProxyType(
    {
        "awq": "awq",
        "bitsandbytes": "bitsandbytes",
        "compressed-tensors": "compressed_tensors",
        "fbgemm_fp8": "fp8",
        "fp8": "fp8",
        "gptq": "gptq",
        "mxfp4": "mxfp4",
    }
)
_KEYS = ("quantization_config", "compression_config")
_FILES = MappingProxyType({"quantize_config.json": "gptq", "quant_config.json": "awq"})
# Tensors that say how activations or caches may be rounded, which ours are not, and the like.
IGNORED = (
    ".input_scale", ".input_scale_ub", ".input_zero_point", ".activation_scale",
    ".k_scale", ".v_scale", ".q_scale", ".output_scale", ".weight_format",
)  # fmt: skip


def matrices(folder: Folder) -> Mapping[str, Stored]:
    """By name ("<module>.weight"), the matrices that the folder has quantized. Their `origins` are
    no weights by themselves."""
    config, method = _config(folder)
    if config is None:
        return {}
    if method not in _METHODS:
        raise config.unsupported(
            "quant_method", f"is {method[:48]!r}; there are {', '.join(_METHODS)}"
        )
    module = import_module(f"{__name__}.{_METHODS[method]}")
    return {matrix.name: matrix for matrix in module.made(Tensors(folder), config)}


def _config(folder: Folder) -> tuple[ConfigKeys | None, str]:
    """The settings, and the method's name."""
    whole = ConfigKeys(folder.config, f"{folder.name}: config.json", {})
    for key in _KEYS:
        if whole.has(key):
            config = whole.part(key)
            if config.has("quant_method"):
                return config, config.text("quant_method")
            bits = config.flag("load_in_4bit", False) or config.flag("load_in_8bit", False)
            return config, "bitsandbytes" if bits else "compressed-tensors"
    for name, method in _FILES.items():
        if (folder.path / name).exists():
            config = ConfigKeys(read_json(folder.path / name), f"{folder.name}: {name}", {})
            return config, config.text("quant_method", method)
    return None, ""
