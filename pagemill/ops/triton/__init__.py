"""Kernels in Triton, one a file, each with a plain function of tensors that launches it.

Must not know: models, steps, or how a backend keeps weights; only tensors and numbers come in.
Every file lists in `VARIANTS` how its kernels are typically launched, so that they can be compiled
for cards that are not there.
"""

import os

# A product and a sum become one instruction, as the CUDA compiler does by default. Triton asks to
# be told, once, before it compiles.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
