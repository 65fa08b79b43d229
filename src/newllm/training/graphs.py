"""CUDA graphs: the kernels of a step are recorded once and launched together ever after."""

from collections.abc import Callable, Hashable

import torch


class Graphs:
    """Calls functions, on CUDA through a captured graph each.

    A function's first call runs as it is (kernels are compiled, libraries set up), the second is captured, and from
    then on the capture is replayed: so it must read and write the same tensors every time, and not ask the host.
    """

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self.clear()

    def clear(self) -> None:
        """Forgets all captures; for when the tensors have changed."""
        self._called: set[Hashable] = set()
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}
        # one pool for all: they are replayed one after the other, and what outlives one lies outside
        self._pool = torch.cuda.graph_pool_handle() if self._enabled else None

    def call(self, key: Hashable, function: Callable[[], None]) -> None:
        """Calls the function that `key` stands for."""
        if not self._enabled or key not in self._called:
            self._called.add(key)
            function()
            return
        if key not in self._graphs:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()  # the pool cannot use what the allocator holds
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                function()
            self._graphs[key] = graph
        self._graphs[key].replay()
