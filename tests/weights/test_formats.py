"""Formats against blocks worked out by hand, golden ones, and packing against its error bound."""

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from pagemill.weights import formats
from pagemill.weights.formats import fp4, nf4
from pagemill.weights.ggml import TYPES
from tests.golden.random_blocks import MASKS, random_blocks

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "formats.npz"

NIBBLES = bytes(16 * high + low for low, high in zip(range(16), reversed(range(16)), strict=True))
UP, DOWN = np.arange(16), np.arange(16)[::-1]  # low halves hold elements 0..15, high 16..31

BLOCKS = {
    "F32": (struct.pack("<3f", 1.0, -2.5, 3e38), [1.0, -2.5, np.float32(3e38)]),
    "F16": (struct.pack("<3e", 1.0, -2.5, 65504.0), [1.0, -2.5, 65504.0]),
    "BF16": (bytes.fromhex("803f20c07f7f"), [1.0, -2.5, 3.3895313892515355e38]),
    "Q8_0": (
        struct.pack("<e32b", 0.5, *range(-128, -112), *range(112, 128)),
        np.r_[-128:-112, 112:128] * 0.5,
    ),
    "INT8": (
        struct.pack("<fH32B", 0.3, 130, *range(16), *range(240, 256)),
        np.float32(0.3) * (np.r_[0:16, 240:256] - 130).astype(np.float32),
    ),
    "INT4": (
        struct.pack("<fB", 0.3, 16) + NIBBLES,
        np.float32(0.3) * (np.r_[UP, DOWN] - 16).astype(np.float32),
    ),
    "FP4": (struct.pack("<f", 2.0) + NIBBLES, 2 * np.float32(fp4.TABLE)[np.r_[UP, DOWN]]),
    "NF4": (struct.pack("<f", 2.0) + NIBBLES, 2 * np.float32(nf4.TABLE)[np.r_[UP, DOWN]]),
    "FP8": (
        # The smallest, the largest below 2 ** -6, that, 1, 1.125, the largest; and with a sign.
        struct.pack("<f32B", 0.5, 0, 1, 7, 8, 56, 57, 126, 128, 129, 254, *[0] * 22),
        np.r_[0, 2**-10, 7 * 2**-10, 2**-7, 0.5, 0.5625, 224, 0, -(2**-10), -224, [0] * 22],
    ),
    "Q4_0": (struct.pack("<e", 0.25) + NIBBLES, (np.r_[UP, DOWN] - 8) * 0.25),
    "Q4_1": (struct.pack("<ee", 0.25, -1.5) + NIBBLES, np.r_[UP, DOWN] * 0.25 - 1.5),
    # Bits 1, 0, 1, 0 ... and numbers 3, 2, 1, 0, 3, ...
    "Q1_0": (struct.pack("<e", 0.25) + b"\x55" * 16, np.tile([0.25, -0.25], 64)),
    "Q2_0": (struct.pack("<e", 0.25) + b"\x1b" * 16, np.tile([0.5, 0.25, 0.0, -0.25], 16)),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_means_what_the_format_says(name):
    raw, expected = BLOCKS[name]
    rows = np.frombuffer(raw * 2, np.uint8).reshape(2, -1)
    values = formats.get(name).unpack(rows)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, np.stack([expected, expected]).astype(np.float32))


@pytest.mark.parametrize("name", MASKS)
def test_random_blocks_mean_what_the_gguf_package_says(name):
    form = formats.get(name)
    with np.load(GOLDEN) as golden:
        expected, (count, crc) = golden[f"{name}.values"], golden[f"{name}.crc"]
    blocks = random_blocks(name, int(count), form.BLOCK_BYTES)
    values = form.unpack(blocks)
    np.testing.assert_array_equal(values[0], expected)
    assert zlib.crc32(values.astype("<f4").tobytes()) == crc


def test_every_format_is_held_to_something():
    assert set(formats.names()) == BLOCKS.keys() | MASKS.keys()


def test_every_type_of_real_numbers_has_a_format():
    sizes = {name: (size, nbytes) for name, size, nbytes in TYPES.values()}
    for name in ("I8", "I16", "I32", "I64", "F64"):
        del sizes[name]
    ours = ("INT4", "INT8", "FP8", "NF4", "FP4")  # of quantized folders
    found = (formats.get(name) for name in formats.names() if name not in ours)
    assert {form.NAME: (form.BLOCK_SIZE, form.BLOCK_BYTES) for form in found} == sizes


@pytest.mark.parametrize("name", formats.names())
def test_rows_of_any_number_are_unpacked_alike(name):
    form = formats.get(name)
    few = 2 * form.BLOCK_SIZE
    many = (1 << 16) // few + 3  # more than one slab, and a rest
    source = np.random.default_rng(4)
    raw = source.integers(0, 36, (many, formats.bytes_per_row(name, few)), dtype=np.uint8)
    values = form.unpack(raw)
    assert values.shape == (many, few)
    for row in (0, many - 2, many - 1):
        np.testing.assert_array_equal(values[row], form.unpack(raw[row : row + 1])[0])
    np.testing.assert_array_equal(form.unpack(raw[::2]), values[::2])
    assert form.unpack(raw[:0]).shape == (0, few)


@pytest.mark.parametrize(
    ("name", "steps"), [("Q8_0", 254), ("Q4_0", 8), ("Q4_1", 15), ("Q5_0", 16), ("Q5_1", 31)]
)
def test_packing_is_off_by_half_a_step_or_little_more(name, steps):
    form = formats.get_packing(name)
    values = np.random.default_rng(2).uniform(-3, 3, (64, 32)).astype(np.float32)
    # Q4_0 and Q5_0 have one step less above zero than below: there they are off by a whole one.
    spread = np.ptp(values, axis=1) if name.endswith("_1") else 2 * np.abs(values).max(axis=1)
    worst = np.abs(form.unpack(form.pack(values)) - values).max(axis=1)
    assert (worst <= spread / steps * 0.52 + 2e-3).all()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # A ramp from -1 to 1 in 32 steps, as the `gguf` package packs it.
        ("Q8_0", "08208189919aa2aab2bac3cbd3dbe3ecf4fc040c141d252d353d464e565e666f777f"),
        ("Q4_0", "0030809191a2a2b3b3c4c4d5d5e6e6f7f7f8"),
        ("Q4_1", "443000bc80809191a2a2b3b3c4c4d5d5e6e6f7f7"),
        (
            "BF16",
            "80bf6fbf5fbf4ebf3ebf2dbf1dbf0cbff8bed7beb6be95be67be25bec6bd04bd"
            "043dc63d253e673e953eb63ed73ef83e0c3f1d3f2d3f3e3f4e3f5f3f6f3f803f",
        ),
    ],
)
def test_packing_equals_the_gguf_package(name, expected):
    ramp = np.linspace(-1, 1, 32, dtype=np.float32)[None]
    assert formats.get_packing(name).pack(ramp).tobytes().hex() == expected


def test_bf16_rounds_ties_to_even_and_keeps_nan():
    bits = np.array([[0x3F808000, 0x3F818000, 0x7F800001, 0x7F7FFFFF]], np.uint32)
    packed = formats.get_packing("BF16").pack(bits.view(np.float32)).view("<u2")
    assert packed.tolist() == [[0x3F80, 0x3F82, 0x7FC0, 0x7F80]]


def test_an_unknown_format_lists_what_exists():
    with pytest.raises(KeyError, match=r"Q9_9.*F32, F16, BF16, Q8_0, Q4_0, Q4_1"):
        formats.get("Q9_9")


def test_formats_that_cannot_be_written_say_so():
    with pytest.raises(KeyError, match=r"IQ1_S.*cannot be written.*Q8_0, Q4_0, Q4_1"):
        formats.get_packing("IQ1_S")


def test_a_format_is_imported_when_it_is_asked_for():
    program = (
        "import sys; from pagemill.weights import formats; formats.get('Q4_1');"
        "print([name for name in sys.modules if name.startswith('pagemill.weights.formats.')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    expected = [f"pagemill.weights.formats.{name}" for name in ("blocks", "q4_1")]
    assert done.stdout.strip() == str(expected)


def test_rows_of_broken_blocks_are_refused():
    with pytest.raises(ValueError, match=r"33 elements.*Q8_0 blocks of 32"):
        formats.bytes_per_row("Q8_0", 33)
