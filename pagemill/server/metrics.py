"""Prometheus metrics under vLLM's names, so that its dashboards and routers work unchanged.

Counts live in plain lists and are turned into families when scraped: an observation per streamed
token costs well under a microsecond. Labels come from bounded sets only (served models, our route
table, known methods), never from a request's text.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from time import monotonic

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from pagemill.errors import Busy, PagemillError
from pagemill.server.engine_metrics import engine_families
from pagemill.types import Delta, EnginePlan, EngineStats

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_FIRST_TOKEN = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
    *(10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_PER_TOKEN = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
    *(10.0, 20.0, 40.0, 80.0),
)
_LATENCY = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0),
    *(240.0, 480.0, 960.0, 1920.0, 7680.0),
)
_NUM_CHOICES = (1.0, 2.0, 5.0, 10.0, 20.0)
_PREEMPTIONS = (1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0)


def one_two_five(limit: int) -> tuple[float, ...]:
    """1, 2, 5, 10, 20, 50, ... up to `limit`."""
    steps: list[float] = []
    power = 1
    while power <= limit:
        steps += [float(digit * power) for digit in (1, 2, 5) if digit * power <= limit]
        power *= 10
    return tuple(steps)


class Histogram:
    """Counts per bucket and their sum."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def sample(self) -> tuple[list[tuple[str, float]], float]:
        """Cumulative buckets and the sum, as Prometheus prints them."""
        total = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            buckets.append(("+Inf" if bound == float("inf") else str(bound), total))
        return buckets, self._sum


class ModelMetrics:
    """What the HTTP side measures of one model."""

    def __init__(self, plan: EnginePlan) -> None:
        tokens = one_two_five(plan.max_model_len)
        self.plan = plan
        self.finished: Counter[str] = Counter()
        self.rejected = 0
        self.inter_token = Histogram(_PER_TOKEN)
        self.first_token = Histogram(_FIRST_TOKEN)
        self.histograms: dict[str, tuple[str, Histogram]] = {
            "time_to_first_token_seconds": ("Arrival to first token.", self.first_token),
            "inter_token_latency_seconds": ("Between two tokens.", self.inter_token),
            **{
                name: (text, Histogram(bounds))
                for name, text, bounds in (
                    ("request_time_per_output_token_seconds", "Mean per answer.", _PER_TOKEN),
                    ("e2e_request_latency_seconds", "Arrival to end.", _LATENCY),
                    ("request_queue_time_seconds", "In the queue.", _LATENCY),
                    ("request_inference_time_seconds", "Queue to end.", _LATENCY),
                    ("request_prefill_time_seconds", "Queue to first token.", _LATENCY),
                    ("request_decode_time_seconds", "First token to end.", _LATENCY),
                    ("request_prompt_tokens", "Prompt tokens.", tokens),
                    ("request_generation_tokens", "Generated tokens.", tokens),
                    ("request_max_num_generation_tokens", "Longest answer asked for.", tokens),
                    ("request_params_max_tokens", "max_tokens of requests.", tokens),
                    ("request_prefill_kv_computed_tokens", "Prompt, not cached.", tokens),
                    ("request_params_n", "n of requests.", _NUM_CHOICES),
                    ("request_num_preemptions", "Preemptions.", _PREEMPTIONS),
                )
            },
        }

    def observe(self, name: str, value: float) -> None:
        """Count a value of the histogram `name`."""
        self.histograms[name][1].observe(value)

    def arrived(self, n: int, max_tokens: int) -> None:
        """A call with `n` answers a prompt was taken on."""
        self.observe("request_params_n", n)
        self.observe("request_params_max_tokens", max_tokens)
        self.observe("request_max_num_generation_tokens", max_tokens)

    def watch(self, started: float, prompt_len: int) -> Watch:
        """The stopwatch of one choice; `started` is when its call arrived (monotonic)."""
        return Watch(self, started, prompt_len)


class Watch:
    """Times one choice. `delta` runs once per engine step: keep it short."""

    __slots__ = (
        *("_final", "_inter_token", "_last", "_metrics", "_prompt_len", "_started", "_tokens"),
    )

    def __init__(self, metrics: ModelMetrics, started: float, prompt_len: int) -> None:
        self._metrics = metrics
        self._inter_token = metrics.inter_token.observe
        self._started = started
        self._last = 0.0
        self._tokens = 0
        self._prompt_len = prompt_len
        self._final: Delta | None = None

    def delta(self, now: float, delta: Delta) -> None:
        """The engine sent something."""
        count = len(delta.token_ids)
        if self._tokens:
            if count:
                self._inter_token(now - self._last)
        elif count:
            self._metrics.first_token.observe(now - self._started)
        self._tokens += count
        self._last = now
        if delta.finish is not None:
            self._final = delta

    def refused(self, error: PagemillError) -> None:
        """The engine did not take the request, or failed on it."""
        if isinstance(error, Busy):
            self._metrics.rejected += 1
        else:
            self.finished("error")

    def finished(self, reason: str) -> None:
        """The choice ended."""
        metrics = self._metrics
        metrics.finished[reason] += 1
        metrics.observe("e2e_request_latency_seconds", monotonic() - self._started)
        metrics.observe("request_prompt_tokens", self._prompt_len)
        metrics.observe("request_generation_tokens", self._tokens)
        final = self._final
        if final is None:
            return
        metrics.observe("request_queue_time_seconds", final.queue_s)
        metrics.observe("request_prefill_time_seconds", final.prefill_s)
        metrics.observe("request_decode_time_seconds", final.decode_s)
        metrics.observe("request_inference_time_seconds", final.prefill_s + final.decode_s)
        computed = self._prompt_len - final.cached_tokens
        metrics.observe("request_prefill_kv_computed_tokens", computed)
        metrics.observe("request_num_preemptions", final.preemptions)
        if self._tokens > 1:
            each = final.decode_s / (self._tokens - 1)
            metrics.observe("request_time_per_output_token_seconds", each)


class Metrics:
    """All metrics of one server process."""

    def __init__(self) -> None:
        self._models: dict[str, ModelMetrics] = {}
        self._requests: Counter[tuple[str, str, str]] = Counter()
        self._durations: dict[str, Histogram] = {}

    def model(self, name: str, plan: EnginePlan) -> ModelMetrics:
        """The metrics of a served model; `name` must come from the runtime, not from a request."""
        if name not in self._models:
            self._models[name] = ModelMetrics(plan)
        return self._models[name]

    def answered(self, method: str, status: int, handler: str, seconds: float) -> None:
        """One HTTP response; `handler` is a path of our route table or "none"."""
        known = method if method in _METHODS else "OTHER"
        self._requests[known, f"{status // 100}xx", handler] += 1
        if handler not in self._durations:
            self._durations[handler] = Histogram(_LATENCY)
        self._durations[handler].observe(seconds)

    def render(self, stats: dict[str, EngineStats]) -> bytes:
        """The text that /metrics serves; `stats` by model name."""
        registry = CollectorRegistry()
        registry.register(_Families([*self._http(), *self._served(), *self._engines(stats)]))
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        return generate_latest(registry)

    def _http(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "http_requests", "Responses sent.", labels=["method", "status", "handler"]
        )
        for labels, count in self._requests.items():
            requests.add_metric(labels, count)
        yield requests
        durations = HistogramMetricFamily(
            "http_request_duration_seconds", "Arrival to last byte.", labels=["handler"]
        )
        for handler, histogram in self._durations.items():
            durations.add_metric([handler], *histogram.sample())
        yield durations

    def _served(self) -> Iterator[Metric]:
        labels = ["model_name", "engine"]
        finished = CounterMetricFamily(
            "vllm:request_success", "Ended answers.", labels=[*labels, "finished_reason"]
        )
        rejected = CounterMetricFamily(
            "vllm:admission_rejections", "Refused requests.", labels=["model_name", "reason"]
        )
        families: dict[str, HistogramMetricFamily] = {}
        for name, model in self._models.items():
            for reason in ("stop", "length", "abort", "error"):
                finished.add_metric([name, "0", reason], model.finished[reason])
            rejected.add_metric([name, "max_num_queued_reqs"], model.rejected)
            for metric, (text, histogram) in model.histograms.items():
                if metric not in families:
                    families[metric] = HistogramMetricFamily(f"vllm:{metric}", text, labels=labels)
                families[metric].add_metric([name, "0"], *histogram.sample())
        yield from (finished, rejected, *families.values())

    def _engines(self, stats: dict[str, EngineStats]) -> Iterator[Metric]:
        plans = {name: model.plan for name, model in self._models.items()}
        return engine_families([(name, plans[name], stats[name]) for name in stats])


class _Families(Collector):
    """Ready-made families behind the registry's interface."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Sequence[Metric]:
        return self._families
