"""A plan in plain words: what `serve` prints before it serves, and `serve --check` instead."""

from pagemill.cli.text import count, gives, network, size
from pagemill.types import EnginePlan, ModelCard

_NOT_SHARED = "are computed by every request: a state cannot be shared as pages can"
_LARGER = 1.1  # less is padding


def plan_lines(name: str, card: ModelCard, plan: EnginePlan) -> list[str]:
    """Model, context, threads and memory; memory in the decimal units of `list` and `doctor`."""
    slots = plan.num_pages * plan.page_size
    context = f"{plan.max_model_len} tokens"
    if plan.max_model_len < card.context_length:
        context += f" (the model could take {card.context_length}; --max-model-len)"
    weights = f"{size(plan.weights_bytes)} weights"
    if plan.weights_bytes > _LARGER * card.weights_bytes:
        weights += f" ({size(card.weights_bytes)} in the file)"
    kept = f"{size(plan.kv_bytes)} for keys and values ({slots} tokens)"
    if not card.kv_elements:
        kept = "nothing for texts"
    if plan.state_bytes:
        kept += f" + {size(plan.state_bytes)} for states of {plan.max_num_seqs} requests"
    return [
        f"{name}: {network(card)}, {count(card.parameters)} parameters, {card.quantization}",
        *([f"  gives     {gives(card)}"] if card.pooling else []),
        f"  context   {context}",
        f"  compute   {plan.backend} backend, {_ranks(plan)}{plan.threads} threads, "
        f"{plan.max_num_seqs} requests at once, {plan.max_queued} more may wait",
        *_layers(card, plan),
        f"  memory    {weights} + {kept} "
        f"+ {size(plan.workspace_bytes)} workspace + {size(plan.process_bytes)} processes "
        f"= {size(plan.total_bytes)} {'estimated' if card.through else 'at most'}",
        *([f"  prefixes  {_NOT_SHARED}"] if plan.state_bytes else []),
    ]


def _layers(card: ModelCard, plan: EnginePlan) -> list[str]:
    """Where a card has no room for all of them."""
    if plan.gpu_layers < 0:
        return []
    rest = card.layers - plan.gpu_layers
    return [f"  layers    {plan.gpu_layers} on the card; weights of {rest} come from the host"]


def _ranks(plan: EnginePlan) -> str:
    """Where there are several: how they divide the network."""
    if plan.ranks == 1:
        return ""
    ways = [(plan.tensor_parallel, "share each layer"), (plan.pipeline_parallel, "runs of layers")]
    return f"{plan.ranks} ranks ({', '.join(f'{n} {what}' for n, what in ways if n > 1)}), "
