"""What the tests of kernels stand on: products in the interpreter are products."""

import pytest
import torch
import triton
import triton.language as tl


@triton.jit
def _product(x, y, out):
    at = tl.arange(0, 16)[:, None] * 16 + tl.arange(0, 16)[None, :]
    tl.store(out + at, tl.dot(tl.load(x + at), tl.load(y + at), input_precision="ieee"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_products_of_every_float(dtype: torch.dtype) -> None:
    x, y = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(1)).to(dtype)
    out = torch.empty(16, 16)
    _product[(1,)](x, y, out)
    torch.testing.assert_close(out, x.float() @ y.float())
