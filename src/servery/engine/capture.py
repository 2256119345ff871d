"""Work on a GPU that is recorded once and then launched again and again, as a CUDA graph."""

from collections.abc import Callable
from typing import NamedTuple

import torch

# Rounds before a capture: kernels are compiled, and libraries make their workspaces, which a capture must not see.
_WARM_UPS = 2


class Captured(NamedTuple):
    """`replay` launches the work anew, on what lies now where it read; `nbytes` is the memory that it keeps."""

    replay: Callable[[], None]
    nbytes: int


class GraphCapture:
    """Captures work of one GPU. All of it shares a pool of memory: no two of the works may run at the same time.

    All of it is captured on one stream, too: cuBLAS keeps a workspace for each that it has seen.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __call__(self, work: Callable[[], None]) -> Captured:
        """Run `work`, which must not wait for the device, a few times, and capture it.

        Raises `RuntimeError` where something in it cannot be captured, `torch.cuda.OutOfMemoryError` for lack of memory.
        """
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_UPS):
                work()
        current.wait_stream(self._stream)
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved(self._device)
        graph = torch.cuda.CUDAGraph()
        # Other threads may have work of their own, such as those that watch over collectives.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            work()
        return Captured(graph.replay, max(0, torch.cuda.memory_reserved(self._device) - before))
