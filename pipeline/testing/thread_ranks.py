"""Ranks as threads of one process: the same exchanges without a network, for tests and to try out degrees."""

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from queue import SimpleQueue
from typing import TypeVar

import torch
from torch import Tensor
from typing_extensions import override

from longtake.pipeline.parallel.context_parallel import SHARDED, ContextParallel
from longtake.pipeline.parallel.degrees import Degrees, Place
from longtake.pipeline.parallel.group import Group

T = TypeVar("T")

Mail = Mapping[tuple[int, int], "SimpleQueue[Tensor]"]
"""Tensors in transit, by (sender, receiver)."""


class ThreadPeers(Group):
    """A `Group` of threads.

    Args:
        rank: rank of this thread.
        ranks: ranks of the group, in order.
        mail: queues shared by all ranks.
        timeout_s: time to wait for a tensor before `queue.Empty` is raised.
    """

    def __init__(self, rank: int, ranks: Sequence[int], mail: Mail, timeout_s: float = 600) -> None:
        self.index, self.size, self.sent_bytes = ranks.index(rank), len(ranks), 0
        self._rank, self._ranks, self._mail, self._timeout_s = rank, ranks, mail, timeout_s

    @override
    def start(self, outgoing: Mapping[int, Tensor], incoming: Mapping[int, Tensor]) -> Callable[[], None]:
        for peer, tensor in outgoing.items():
            if tensor.numel():
                self._mail[self._rank, self._ranks[peer]].put(tensor.clone())
                self.sent_bytes += tensor.numel() * tensor.element_size()

        def wait() -> None:
            for peer, tensor in incoming.items():
                if tensor.numel():
                    tensor.copy_(self._mail[self._ranks[peer], self._rank].get(timeout=self._timeout_s))

        return wait

    @override
    def all_to_all(self, packed: Tensor, sizes: Sequence[int], arriving: Sequence[int]) -> Tensor:
        outgoing = list(torch.split(packed, list(sizes)))
        arrived = [packed.new_empty(size) for size in arriving]
        arrived[self.index] = outgoing[self.index]
        peers = [rank for rank in range(self.size) if rank != self.index]
        self.start({rank: outgoing[rank] for rank in peers}, {rank: arrived[rank] for rank in peers})()
        return torch.cat(arrived)


def run_threads(act: Callable[[ContextParallel], T], degrees: Degrees, sharded: Collection[str] = SHARDED) -> list[T]:
    """Run `act` on each rank of a gang of threads in inference mode; returns the results in rank order."""
    mail: Mail = {(a, b): SimpleQueue() for a, b in product(range(degrees.ranks), repeat=2)}

    def run(rank: int) -> T:
        def group(places: Sequence[Place]) -> ThreadPeers:
            return ThreadPeers(rank, [degrees.rank(place) for place in places], mail)

        with torch.inference_mode():
            return act(ContextParallel(degrees, degrees.place(rank), group, sharded))

    with ThreadPoolExecutor(degrees.ranks) as pool:
        return list(pool.map(run, range(degrees.ranks)))
