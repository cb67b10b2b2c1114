"""The same network and users through transformers' own continuous batching."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from functools import partial
from random import Random

import torch

from pagemill.bench.gpu.bench import Bench, Skip, Task
from pagemill.bench.gpu.found import Row
from pagemill.errors import EngineFailure


def tasks(bench: Bench) -> Iterator[Task]:
    """Each number of users alone."""
    yield Task("transformers, continuous batching", partial(_peer, bench))


def _peer(bench: Bench) -> Iterator[Row]:
    if importlib.util.find_spec("transformers") is None:
        raise Skip("transformers is not installed")
    if not bench.on_card:  # it fills whatever memory there is before the first token
        raise Skip("it is measured on cards only")
    import transformers

    sizes, shape = bench.sizes, bench.sizes.small
    config = transformers.LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.dim,
        max_position_embeddings=8192,
        tie_word_embeddings=shape.tied,
    )
    with torch.device(bench.device):
        model = transformers.LlamaForCausalLM._from_config(
            config, dtype=torch.bfloat16, attn_implementation="sdpa"
        )
    model = model.to(bench.device).eval()
    # No token ends an answer: all users' are equally long.
    settings = transformers.GenerationConfig(
        max_new_tokens=sizes.answer, do_sample=False, eos_token_id=-1, pad_token_id=0
    )
    for users in sizes.users:
        rng = Random(users)  # noqa: S311
        prompts = [[rng.randrange(shape.vocab) for _ in range(sizes.prompt)] for _ in range(users)]
        answers = model.generate_batch(inputs=prompts, generation_config=settings).values()
        tokens = sum(len(answer.generated_tokens) for answer in answers)
        if not tokens:
            raise EngineFailure(f"no tokens: {next((a.error for a in answers), 'no answers')}")
        # Without what it sets up for each call: our engine's is not counted either.
        seconds = max(a.lifespan[1] for a in answers) - min(a.created_time for a in answers)
        note = "" if tokens == users * sizes.answer else f"{tokens} tokens"
        yield Row(
            f"transformers {transformers.__version__}, {shape.name}",
            f"{users} users, {sizes.prompt} + {sizes.answer}",
            tokens / seconds,
            "tok/s",
            note=note,
        )
