"""CUDA graphs: the kernels of a step are recorded once and launched together ever after."""

from collections.abc import Callable, Hashable

import torch


class Graphs:
    """Calls functions, on CUDA through a captured graph each.

    A function is captured when it is called first, and the capture is replayed then and ever after: so it must read and
    write the same tensors every time, and not ask the host. Its kernels must have been compiled before, and the
    libraries that it uses set up.
    """

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self.clear()

    def clear(self) -> None:
        """Forgets all captures; for when the tensors have changed."""
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}
        # one pool for all: they are replayed one after the other, and what outlives one lies outside
        self._pool = torch.cuda.graph_pool_handle() if self.enabled else None

    def call(self, key: Hashable, function: Callable[[], None]) -> None:
        """Calls the function that `key` stands for."""
        if not self.enabled:
            function()
            return
        if key not in self._graphs:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                function()
            self._graphs[key] = graph
        self._graphs[key].replay()
