"""Logits of llama.cpp, for `quality.py` to compare with.

Needs cyllama and numpy, and nothing of ours, so that it can run under an interpreter of its own:

    python llama_logits.py MODEL.gguf IDS.npy LOGITS.npy VOCAB THREADS

IDS.npy holds int32 ids (windows, tokens), LOGITS.npy is then float32 (windows, tokens, VOCAB).
"""

import sys

import cyllama
import numpy as np
from cyllama.llama import llama_cpp


class _Model(llama_cpp.LlamaModel):
    """cyllama 0.2.18 asks its model for `n_vocab` when it returns logits, and has no such name."""

    n_vocab = 0


def main(model_path: str, ids_path: str, logits_path: str, vocab: int, threads: int) -> None:
    ids = np.load(ids_path, allow_pickle=False)
    windows, tokens = ids.shape
    logits = np.lib.format.open_memmap(
        logits_path, "w+", dtype=np.float32, shape=(windows, tokens, vocab)
    )
    llama_cpp.disable_logging()
    llama_cpp.llama_backend_init()
    llama_cpp.ggml_backend_load_all()
    on_cpu = llama_cpp.LlamaModelParams()
    on_cpu.n_gpu_layers = 0
    model = _Model(path_model=model_path, params=on_cpu, verbose=False)
    model.n_vocab = vocab
    params = llama_cpp.LlamaContextParams()
    params.n_ctx = params.n_batch = params.n_ubatch = tokens
    params.n_threads = params.n_threads_batch = threads
    context = llama_cpp.LlamaContext(model=model, params=params, verbose=False)
    batch = llama_cpp.LlamaBatch(n_tokens=tokens, embd=0, n_seq_max=1)
    for window in range(windows):
        context.kv_cache_clear()
        batch.reset()
        for position, token in enumerate(ids[window].tolist()):
            batch.add(token, position, [0], True)
        context.decode(batch)
        for position in range(tokens):
            logits[window, position] = context.get_logits_ith(position)
    logits.flush()
    commit = llama_cpp.ggml_commit()
    print(f"llama.cpp {commit} (ggml {llama_cpp.ggml_version()}, cyllama {cyllama.__version__})")


if __name__ == "__main__":
    main(*sys.argv[1:4], *map(int, sys.argv[4:6]))
