"""An engine's own counters and gauges (`EngineStats`) as Prometheus families under vLLM's names.

The four `vllm:gpu_*` names are gone from vLLM, but its production router still reads them.
"""

from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from pagemill.types import EnginePlan, EngineStats

Engine = tuple[str, EnginePlan, EngineStats]  # served name, plan, snapshot
Reader = Callable[[EngineStats], float]

_LABELS = ["model_name", "engine"]


def kv_usage(stats: EngineStats) -> float:
    """Share of KV pages that sequences hold; 1 is full."""
    return stats.pages_used / stats.pages_total if stats.pages_total else 0.0


def kv_waste(stats: EngineStats) -> float:
    """Share of allocated KV slots that hold no token."""
    return 1 - stats.slots_filled / stats.slots_allocated if stats.slots_allocated else 0.0


def hit_rate(stats: EngineStats) -> float:
    """Share of prompt tokens found in the prefix cache."""
    return stats.prefix_hits / stats.prefix_queries if stats.prefix_queries else 0.0


_GAUGES: tuple[tuple[str, str, Reader], ...] = (
    ("vllm:num_requests_running", "Requests in the batch.", lambda s: s.running),
    ("vllm:num_requests_waiting", "Requests in the queue.", lambda s: s.waiting),
    ("vllm:kv_cache_usage_perc", "KV pages in use, 1 = all.", kv_usage),
    ("vllm:gpu_cache_usage_perc", "Old name of vllm:kv_cache_usage_perc.", kv_usage),
    ("vllm:gpu_prefix_cache_hit_rate", "Hits over queries, tokens.", hit_rate),
    ("pagemill:kv_waste_ratio", "Allocated KV slots that hold nothing.", kv_waste),
    ("pagemill:engine_memory_bytes", "Resident memory of the engine.", lambda s: s.memory_bytes),
)
_COUNTERS: tuple[tuple[str, str, Reader], ...] = (
    ("vllm:prompt_tokens", "Prompt tokens taken in.", lambda s: s.prompt_tokens),
    ("vllm:generation_tokens", "Tokens generated.", lambda s: s.generation_tokens),
    ("vllm:prompt_tokens_cached", "Prompt tokens found in the cache.", lambda s: s.prefix_hits),
    ("vllm:prefix_cache_queries", "Prompt tokens looked up.", lambda s: s.prefix_queries),
    ("vllm:prefix_cache_hits", "Prompt tokens found.", lambda s: s.prefix_hits),
    ("vllm:gpu_prefix_cache_queries", "Old name.", lambda s: s.prefix_queries),
    ("vllm:gpu_prefix_cache_hits", "Old name.", lambda s: s.prefix_hits),
    ("vllm:num_preemptions", "Preemptions.", lambda s: s.preemptions),
    ("pagemill:engine_steps", "Forward passes.", lambda s: s.steps),
    ("pagemill:engine_step_seconds", "Time in forward passes.", lambda s: s.step_seconds),
)


def engine_families(engines: Sequence[Engine]) -> Iterator[Metric]:
    """One family per name, one series per engine."""
    for name, text, read in _GAUGES:
        gauge = GaugeMetricFamily(name, text, labels=_LABELS)
        for served, _, stats in engines:
            gauge.add_metric([served, "0"], read(stats))
        yield gauge
    for name, text, read in _COUNTERS:
        counter = CounterMetricFamily(name, text, labels=_LABELS)
        for served, _, stats in engines:
            counter.add_metric([served, "0"], read(stats))
        yield counter
    # The engine counts steps and their tokens, not a distribution: one bucket, sum and count.
    iterations = HistogramMetricFamily(
        "vllm:iteration_tokens_total", "Tokens per forward pass.", labels=_LABELS
    )
    config = GaugeMetricFamily(
        "vllm:cache_config_info",
        "The KV cache, as labels.",
        labels=[*_LABELS, "block_size", "num_gpu_blocks", "enable_prefix_caching"],
    )
    for served, plan, stats in engines:
        iterations.add_metric([served, "0"], [("+Inf", stats.steps)], stats.step_tokens)
        caching = str(plan.prefix_caching)
        config.add_metric([served, "0", str(plan.page_size), str(plan.num_pages), caching], 1)
    yield iterations
    yield config
