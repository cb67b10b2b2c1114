"""What captures decode steps, on a driver that takes notes: streams, and what a failure leaves."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from pagemill.ops.graphs import CudaRecorder


class FakeStream:
    def __init__(self, device: Any = None) -> None:
        self.waited: list[FakeStream] = []

    def wait_stream(self, other: "FakeStream") -> None:
        self.waited.append(other)


class FakeCuda:
    """The current stream, and which stream is captured into which pool. As torch does, a capture
    that fails leaves its stream the current one."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.default = self.current = FakeStream()
        self.made: list[FakeStream] = []
        self.pools: list[object] = []
        self.capturing = False
        for name, fake in (
            ("Stream", self._stream), ("current_stream", lambda device=None: self.current),
            ("stream", self._use), ("graph", self._capture), ("CUDAGraph", self._graph),
            ("graph_pool_handle", object),
        ):  # fmt: skip
            patch.setattr(torch.cuda, name, fake)

    def _stream(self, device: Any) -> FakeStream:
        self.made.append(FakeStream())
        return self.made[-1]

    @contextmanager
    def _use(self, stream: FakeStream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def _capture(
        self, graph: Any, pool: object, stream: FakeStream | None = None
    ) -> Iterator[None]:
        self.pools.append(pool)
        before, self.current = self.current, stream or FakeStream()
        self.capturing = True
        yield
        self.capturing, self.current = False, before

    def _graph(self) -> Any:
        return type("Graph", (), {"replay": lambda self: None})()


def test_all_sizes_are_rehearsed_and_captured_on_one_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = FakeCuda(monkeypatch)
    recorder = CudaRecorder(torch.device("cuda", 0))
    ran = []

    def run() -> torch.Tensor:
        ran.append((cuda.current, cuda.capturing))
        return torch.zeros(1)

    for _ in range(3):
        recorder.record(run)
    (stream,) = cuda.made
    assert ran == 3 * [(stream, False), (stream, True)]
    assert stream.waited == 3 * [cuda.default]
    assert cuda.default.waited == 3 * [stream] and cuda.current is cuda.default
    assert len(set(map(id, cuda.pools))) == 1


def test_after_a_failure_the_stream_is_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(monkeypatch)
    recorder = CudaRecorder(torch.device("cuda", 0))

    def run() -> torch.Tensor:
        if cuda.capturing:
            raise RuntimeError("operation not permitted when stream is capturing")
        return torch.zeros(1)

    with pytest.raises(RuntimeError, match="not permitted"):
        recorder.record(run)
    assert cuda.current is cuda.default
