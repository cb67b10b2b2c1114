"""Kernels run in Triton's interpreter here (see tests/conftest.py): no card is needed."""

import torch
import triton

torch.set_num_threads(1)
if not triton.knobs.runtime.interpret:
    raise RuntimeError("these tests run in Triton's interpreter: TRITON_INTERPRET must be 1")
