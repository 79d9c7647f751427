"""Context parallelism over `torch.distributed`: which ranks share what, and how tensors travel between them.

    parallel = context_parallel(Degrees(ulysses=2, ring=2))          # on every rank, after init_process_group
    stage = DenoiseStage(model, plan, finished, parallel)            # or KVStore(..., parallel=parallel)

Every rank of a gang makes the same calls in the same order, so each call depends only on what all ranks know. Apart
from this module, only `actors/gang.py` and `actors/train_workers.py` use `torch.distributed`.

Shapes: b batch, f latent frames, s tokens of each, d token width.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor
from typing_extensions import override

from longtake.pipeline.attention.exchange import Alone, Exchange
from longtake.pipeline.attention.kv_plan import SiteLayout
from longtake.pipeline.attention.shares import Rows, Share
from longtake.pipeline.errors import SpecError
from longtake.pipeline.models.branches import Velocities
from longtake.pipeline.parallel.degrees import EXCHANGE_S, Degrees, Place
from longtake.pipeline.parallel.gang import Parallel
from longtake.pipeline.parallel.group import Group, exchange
from longtake.pipeline.parallel.ring import Ring
from longtake.pipeline.parallel.ulysses import Ulysses

SHARDED = ("video",)
"""Streams that are cut. Sound and text are short, so every rank has them whole, and their keys count once."""


_SUBGROUPS: "WeakKeyDictionary[dist.ProcessGroup, dict[tuple[int, ...], dist.ProcessGroup]]" = WeakKeyDictionary()
"""Process groups of some ranks, for as long as the world lives to which they belong."""


class Peers(Group):
    """A group over a process group of torch: gloo and NCCL both run several messages at once.

    Args:
        ranks: global ranks, in order; this process is one of them.
        process_group: to which these ranks belong; torch's default one if None.
        timeout_s: how long a collective waits for the other ranks.
    """

    def __init__(
        self, ranks: Sequence[int], process_group: dist.ProcessGroup | None = None, timeout_s: float = EXCHANGE_S
    ) -> None:
        self.index, self.size, self.sent_bytes = ranks.index(dist.get_rank()), len(ranks), 0
        self._ranks, self._process_group, self._timeout_s = ranks, process_group, timeout_s

    @override
    def start(self, outgoing: Mapping[int, Tensor], incoming: Mapping[int, Tensor]) -> Callable[[], None]:
        sent = {rank: tensor.contiguous() for rank, tensor in outgoing.items() if tensor.numel()}
        self.sent_bytes += sum(tensor.numel() * tensor.element_size() for tensor in sent.values())
        ops = [self._op(dist.isend, rank, tensor) for rank, tensor in sent.items()]
        ops += [self._op(dist.irecv, rank, tensor) for rank, tensor in incoming.items() if tensor.numel()]
        works = dist.batch_isend_irecv(ops) if ops else []

        def wait() -> None:
            for work in works:
                work.wait()
            sent.clear()  # until here, the tensors that are being sent must stay alive

        return wait

    @override
    def all_to_all(self, packed: Tensor, sizes: Sequence[int], arriving: Sequence[int]) -> Tensor:
        width = packed.element_size()
        arrived = packed.new_empty(sum(arriving))
        self.sent_bytes += width * (sum(sizes) - sizes[self.index])
        dist.all_to_all_single(
            arrived.view(torch.uint8),
            packed.contiguous().view(torch.uint8),
            [width * size for size in arriving],
            [width * size for size in sizes],
            group=self._exactly(),
        )
        return arrived

    def _exactly(self) -> dist.ProcessGroup | None:
        """The process group of these ranks and no others, which the first call of each of them makes."""
        if self.size == dist.get_world_size(self._process_group):
            return self._process_group
        world = dist.group.WORLD
        assert world is not None, "ranks have met before they exchange"
        made, ranks = _SUBGROUPS.setdefault(world, {}), tuple(self._ranks)
        if ranks not in made:
            timeout = timedelta(seconds=self._timeout_s)
            made[ranks] = dist.new_group(list(ranks), timeout=timeout, use_local_synchronization=True)
        return made[ranks]

    def _op(self, act: Callable[..., Any], rank: int, tensor: Tensor) -> dist.P2POp:
        return dist.P2POp(act, tensor, self._ranks[rank], self._process_group)


class ContextParallel(Parallel):
    """A gang of several ranks, seen from one of them.

    Args:
        degrees: of the mesh.
        place: of this rank.
        group: makes the group of the ranks at the given places.
        sharded: streams that are cut.
    """

    def __init__(
        self,
        degrees: Degrees,
        place: Place,
        group: Callable[[Sequence[Place]], Group],
        sharded: Collection[str] = SHARDED,
    ) -> None:
        self.degrees, self.place, self._sharded = degrees, place, sharded
        self.ulysses = group([place._replace(ulysses=index) for index in range(degrees.ulysses)])
        self.ring = group([place._replace(ring=index) for index in range(degrees.ring)])
        self.cfg = group([place._replace(cfg=index) for index in range(degrees.cfg)])
        places = [Place(place.cfg, ring, index) for ring in range(degrees.ring) for index in range(degrees.ulysses)]
        self.tokens = group(places)

    @override
    def at(self, site: SiteLayout) -> Exchange:
        # Where no sharded stream has keys, all keys are on every rank, and nothing travels.
        if not any(stream.page_tokens for stream in site.streams if stream.name in self._sharded):
            return Alone(partial(self._own_rows, site))
        inner = Ring(site, self.ring, self._sharded) if self.ring.size > 1 else Alone()
        if self.ulysses.size == 1:
            return inner
        return Ulysses(site, self.ulysses, Share(self.ring.index, self.ring.size), inner, self._sharded)

    def _own_rows(self, site: SiteLayout, stream: str, length: int) -> Rows:
        """The rows of a whole stream that this rank runs through the blocks."""
        grid = site.stream(stream).grid(length)
        columns = self.columns(stream, grid.size)
        return Rows(grid, range(columns.start, columns.stop))

    @override
    def columns(self, stream: str, size: int) -> slice:
        if stream not in self._sharded:
            return slice(0, size)
        columns = self.degrees.columns(self.place, size)
        return slice(columns.start, columns.stop)

    @override
    def gather(self, stream: str, x: Tensor, size: int) -> Tensor:
        if stream not in self._sharded:
            return x
        b, f, _, d = x.shape
        places = [self.degrees.place(rank) for rank in range(self.tokens.size)]
        shapes = [(b, f, len(self.degrees.columns(place, size)), d) for place in places]
        return torch.cat(exchange(self.tokens, [x] * self.tokens.size, shapes), dim=2)

    @override
    def total(self, stream: str, x: Tensor) -> Tensor:
        if stream not in self._sharded or self.tokens.size == 1:
            return x
        parts = exchange(self.tokens, [x] * self.tokens.size, [x.shape] * self.tokens.size)
        return torch.stack(parts).sum(dim=0)  # in the order of ranks

    @override
    def branches(self, branches: Iterable[str]) -> list[str]:
        names = list(branches)
        if len(names) < self.cfg.size:
            raise SpecError(
                f"{self.cfg.size} ranks cannot share {len(names)} guidance pass; use a cfg degree of {len(names)}, or a"
                " guidance other than 1"
            )
        return names[self.cfg.index :: self.cfg.size]

    @override
    def all_branches(self, own: Mapping[str, Velocities], branches: Iterable[str]) -> dict[str, Velocities]:
        # Ranks take branches in turn, so they may have one more or fewer; all send their velocities flat.
        velocity = next(iter(own.values()))
        sizes = [v.numel() for v in velocity.values()]
        sent = torch.cat([v.flatten() for branch in own.values() for v in branch.values()])
        order = list(branches)
        names = [order[index :: self.cfg.size] for index in range(self.cfg.size)]
        received = exchange(self.cfg, [sent] * self.cfg.size, [(sum(sizes) * len(some),) for some in names])
        found: dict[str, Velocities] = {}
        for some, flat in zip(names, received, strict=True):
            for branch, piece in zip(some, torch.split(flat, sum(sizes)), strict=True):
                parts = zip(velocity.items(), torch.split(piece, sizes), strict=True)
                found[branch] = {name: part.view_as(like) for (name, like), part in parts}
        return {branch: found[branch] for branch in order}


@contextmanager
def joined(rank: int, num_ranks: int, meeting: Path, timeout_s: float = 60, backend: str = "gloo") -> Iterator[None]:
    """Make this process one rank of `num_ranks` on one machine inside the block.

    Args:
        rank: of this process.
        num_ranks: all processes.
        meeting: a file that does not exist yet, the same for all ranks.
        timeout_s: how long a rank waits for another one before it fails.
        backend: the library that carries tensors.
    """
    where, timeout = f"file://{meeting}", timedelta(seconds=timeout_s)
    dist.init_process_group(backend, init_method=where, rank=rank, world_size=num_ranks, timeout=timeout)
    try:
        yield
    finally:
        dist.destroy_process_group()


def context_parallel(
    degrees: Degrees,
    ranks: Sequence[int] | None = None,
    process_group: dist.ProcessGroup | None = None,
    sharded: Collection[str] = SHARDED,
    timeout_s: float = EXCHANGE_S,
) -> ContextParallel:
    """The gang of `ranks` (global, in order; all of the default group if None), seen from this process.

    Raises:
        SpecError: the degrees ask for another number of ranks.
    """
    ranks = range(dist.get_world_size()) if ranks is None else ranks
    if len(ranks) != degrees.ranks:
        raise SpecError(
            f"{len(ranks)} ranks are not ulysses {degrees.ulysses} x ring {degrees.ring} x cfg {degrees.cfg}"
            f" = {degrees.ranks}; start {degrees.ranks} or change the degrees"
        )

    def group(places: Sequence[Place]) -> Group:
        return Peers([ranks[degrees.rank(place)] for place in places], process_group, timeout_s)

    return ContextParallel(degrees, degrees.place(ranks.index(dist.get_rank())), group, sharded)
