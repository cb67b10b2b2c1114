"""The program of an engine process: from a model file to an engine that steps.

Composes weights, ops, models and engine, and imports nothing that the HTTP side needs: it decides
how soon the first token comes. Its imports run while the other side still reads the file's header
and plans.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, cast

from pagemill import models
from pagemill.engine import process
from pagemill.engine.engine import Engine
from pagemill.engine.fitting import DeviceMemory, Network, fitted
from pagemill.engine.offload import PageMover
from pagemill.engine.pooling import PoolingEngine
from pagemill.engine.process import GiveUp
from pagemill.errors import Unsupported
from pagemill.fallback.choice import open_any
from pagemill.fallback.folder import Foreign
from pagemill.ops.host_pages import ArrayPages
from pagemill.ops.interface import Array, Captures, Ops, Step
from pagemill.types import EngineInfo, EnginePlan, ModelCard
from pagemill.weights.load import Checkpoint
from pagemill.weights.precision import Precision


def main(handle: int) -> None:
    """Run an engine process on the socket with this file descriptor; does not return."""
    process.main(handle, build)


def build(
    plan: EnginePlan, give_up: GiveUp | None = None, rank_entry: str = ""
) -> tuple[Engine, EngineInfo]:
    """Load a model as planned. Raises BadModelFile, Unsupported; MemoryError when it is too big.

    `give_up` is for a plan of several ranks, which can end only together with this process;
    `rank_entry` is another program for them.
    """
    checkpoint = open_checkpoint(plan)
    if isinstance(checkpoint, Foreign):
        return _build_foreign(plan, checkpoint)
    card = checkpoint.card
    model: Callable[[Step, Array], Array]
    if plan.ranks > 1:
        if find_spec("torch") is None:
            raise Unsupported(
                f"{plan.ranks} ranks meet through torch, which cannot be found: "
                "pip install 'pagemill[cuda]'"
            )
        if give_up is None:
            raise Unsupported("several ranks need an engine process of their own")
        from pagemill.parallel.leader import RANK, lead

        entry = rank_entry or RANK
        model, kv, ops = lead(plan, checkpoint, new_ops, give_up, entry)
    else:
        model, kv, ops, plan = _alone(plan, checkpoint)
    engine_type = PoolingEngine if card.pooling else Engine
    engine = engine_type(model, ops, kv, plan, card.vocab_size, _mover(plan, kv))
    notes = [getattr(ops, "isa", ""), f"{plan.ranks} ranks" if plan.ranks > 1 else ""]
    noted = ", ".join(filter(None, notes))
    return engine, _info(plan, card, f"{ops.name} ({noted})" if noted else ops.name)


def _alone(plan: EnginePlan, checkpoint: Checkpoint) -> tuple[Any, Array, Ops, EnginePlan]:
    """A network in this process: compiled, its cache, what computes it, and the plan, with the
    pages that there are."""
    card, ops = checkpoint.card, new_ops(plan)
    host = _keep_on_host(ops, plan.gpu_layers) if plan.gpu_layers >= 0 else None
    network = models.build(card, ops, checkpoint.source)
    if host is not None:
        network.layers = host.attach(network.layers)
    model = ops.compile(network)
    # Captured steps cannot wait for weights that come from the host; texts are no decode steps.
    eager = plan.enforce_eager or host is not None or bool(card.pooling)
    captured = model if isinstance(model, Captures) and not eager else None

    def new_kv(num_pages: int) -> Array:
        return network.new_kv(num_pages, plan.page_size, plan.max_num_seqs)

    if plan.gpu_memory_utilization:
        pooled, captures = bool(card.pooling), captured is not None
        unfitted = Network(model, ops, new_kv, card.context_length, pooled, captures)
        plan = fitted(plan, unfitted, _memory(ops))
    kv = new_kv(plan.num_pages)
    if captured is not None:
        captured.capture(kv, plan.max_num_seqs, plan.max_model_len, plan.page_size)
    return model, kv, ops, plan


def _keep_on_host(ops: Any, first: int) -> Any:
    """Let `ops` leave the weights of layers from `first` on in the host's memory."""
    from pagemill.ops.plain.hosted import CudaTransfers, HostLayers

    ops.host = HostLayers(first, ops.device, CudaTransfers(ops.device))
    return ops.host


def _memory(ops: Any) -> DeviceMemory:
    from pagemill.ops.plain.memory import CudaMemory

    return CudaMemory(ops.device)


def _mover(plan: EnginePlan, kv: Array) -> PageMover | None:
    """What keeps pages on the host, where that was asked for and pages are shared at all."""
    if not plan.kv_offload_bytes or not plan.prefix_caching:
        return None
    if plan.backend == "reference":
        return ArrayPages(kv, 2, plan.page_size, plan.kv_offload_bytes)
    from pagemill.ops.plain.host_pages import TensorPages

    return TensorPages(kv, plan.kv_offload_bytes)


def open_checkpoint(plan: EnginePlan) -> Checkpoint | Foreign:
    """The model that was planned for."""
    precision = Precision(plan.dtype, plan.quantization)
    return open_any(plan.model_path, models, precision, plan.backend)


def _build_foreign(plan: EnginePlan, foreign: Foreign) -> tuple[Engine, EngineInfo]:
    """A network that transformers computes; sampling is ours, as everywhere."""
    # Imported here: it takes seconds, and memory, that no other model needs.
    from pagemill.fallback.load import load

    network = load(foreign, plan.threads)
    kv = network.new_kv(plan.num_pages, plan.page_size)
    engine = Engine(network, _sampling_ops(), kv, plan, foreign.card.vocab_size)
    return engine, _info(plan, foreign.card, plan.backend)


def _info(plan: EnginePlan, card: ModelCard, backend: str) -> EngineInfo:
    return EngineInfo(
        model_path=plan.model_path,
        backend=backend,
        threads=plan.threads,
        vocab_size=card.vocab_size,
        max_model_len=plan.max_model_len,
        max_num_seqs=plan.max_num_seqs,
        max_num_batched_tokens=plan.max_num_batched_tokens,
        page_size=plan.page_size,
        num_pages=plan.num_pages,
        weights_bytes=card.weights_bytes,
        kv_bytes=plan.kv_bytes,
        load_s=0.0,
        pid=0,
    )


def new_ops(plan: EnginePlan) -> Ops:
    if plan.backend == "reference":
        from pagemill.ops.reference import ReferenceOps

        return ReferenceOps()
    if plan.backend == "cpu":
        try:
            from pagemill.ops.cpu import CpuOps
        except ImportError as error:
            raise Unsupported(
                f"the native kernels cannot be loaded ({error}); --backend reference needs none"
            ) from error
        return CpuOps(threads=plan.threads, kv_dtype=plan.kv_cache_dtype)
    if plan.backend in ("cuda", "torch"):
        return _tensor_ops(plan)
    raise Unsupported(
        f"there is no backend {plan.backend!r}; there are cpu, cuda, torch, reference and "
        "transformers"
    )


def _tensor_ops(plan: EnginePlan) -> Ops:
    """On torch, which takes seconds to load; by its own calls alone where Triton is missing."""
    kind: Any
    try:
        from pagemill.ops.plain.device import prepare

        if plan.backend == "cuda" and find_spec("triton"):
            from pagemill.ops.cuda import CudaOps as kind
        else:
            from pagemill.ops.plain.ops import PlainOps as kind
    except ImportError as error:
        raise Unsupported(
            f"backend {plan.backend} cannot be loaded ({error}): pip install 'pagemill[cuda]'"
        ) from error
    return cast(Ops, kind(*prepare(plan.device, plan.dtype, plan.threads), plan.kv_cache_dtype))


def _sampling_ops() -> Ops:
    """For logits that another library computed."""
    try:
        from pagemill.ops.cpu import CpuOps
    except ImportError:
        from pagemill.ops.reference import ReferenceOps

        return ReferenceOps()
    return CpuOps(threads=1)
