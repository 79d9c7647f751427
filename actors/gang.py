"""A gang: the ranks that denoise one take together. It is placed as a whole, and it fails as a whole.

Ray places the ranks and brings each chunk to all of them, in one call per rank; `torch.distributed` carries what they
exchange inside it. They meet at a store that rank 0 keeps for as long as it lives.
"""

import socket
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
import torch.distributed as dist
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.stage import Order, StageActor
from pipeline import acts
from pipeline.acts import Act, Take
from pipeline.attention.parallel import context_parallel
from pipeline.errors import ActorLost

TIMEOUT = timedelta(seconds=120)
"""How long a rank waits for its peers, in an exchange or to meet."""


@dataclass(frozen=True)
class Meeting:
    """Where ranks meet."""

    host: str
    port: int


class Rank(StageActor):
    """One rank: a denoiser that shares every chunk with its peers. Rank 0 keeps what they have made, and returns it."""

    def __init__(self, order: Order, scribe: ActorHandle, rank: int) -> None:
        super().__init__("denoise", order, scribe)
        self._rank = rank

    def host(self) -> Meeting:
        """Keep the store where the ranks meet: rank 0 only."""
        address = ray.util.get_node_ip_address()
        listener = socket.create_server((address, 0))
        port = listener.getsockname()[1]
        self._store = dist.TCPStore(
            *(address, port, self._order.degrees.ranks),
            is_master=True,
            timeout=TIMEOUT,
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )
        return Meeting(address, port)

    def open(self, meeting: Meeting | None = None) -> None:
        """See `StageActor.open`; `meeting` is where the peers are, None without any."""
        if meeting is not None:
            ranks = self._order.degrees.ranks
            store = self._store if self._rank == 0 else dist.TCPStore(meeting.host, meeting.port, timeout=TIMEOUT)
            dist.init_process_group("gloo", store=store, rank=self._rank, world_size=ranks, timeout=TIMEOUT)
        super().open()

    def run(self, *arguments: Any) -> Any:
        """The latents of one chunk from rank 0, nothing from the others. Raises `ActorLost` if a peer is gone."""
        try:
            latents = super().run(*arguments)
        except RuntimeError as error:
            if "gloo" not in str(error):
                raise
            raise ActorLost(f"rank {self._rank} has lost a peer: {str(error).splitlines()[0]}") from error
        return latents if self._rank == 0 else None

    def _build(self, take: Take) -> Act[Any]:
        if self._order.degrees.ranks == 1:
            return acts.denoise(take, self._observer)
        parallel = context_parallel(self._order.degrees)
        return acts.denoise(take, self._observer, parallel) if self._rank == 0 else acts.denoise_along(take, parallel)


class Gang:
    """One placement group with a rank per bundle; every rank runs every chunk, rank 0 returns it.

    Args:
        bundles: what each rank is given, such as `{"CPU": 1}`.
        runtime_env: of every rank.
    """

    def __init__(
        self, order: Order, scribe: ActorHandle, bundles: list[dict[str, float]], runtime_env: dict[str, Any]
    ) -> None:
        self._group = placement_group(bundles, strategy=_strategy(bundles))
        self.ranks = [
            ray.remote(Rank)
            .options(
                num_cpus=bundle["CPU"],
                num_gpus=0,
                max_restarts=0,
                max_task_retries=0,
                runtime_env=runtime_env,
                scheduling_strategy=PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=rank),
            )
            .remote(order, scribe, rank)
            for rank, bundle in enumerate(bundles)
        ]

    def open(self) -> list[ObjectRef]:
        """Have every rank meet the others and build its act: one reference per rank, there when it stands ready."""
        meeting = self.ranks[0].host.remote() if len(self.ranks) > 1 else None
        return [rank.open.remote(meeting) for rank in self.ranks]

    def remote(self, *arguments: Any) -> ObjectRef:
        """Denoise one chunk: a reference to its latents."""
        latents, *_ = [rank.run.remote(*arguments) for rank in self.ranks]
        return latents

    def release(self) -> None:
        """Give the room back."""
        remove_placement_group(self._group)


def _strategy(bundles: list[dict[str, float]]) -> str:
    """One node, if any is large enough, since ranks talk in every layer; else as few nodes as will do."""
    wanted = sum(bundle["CPU"] for bundle in bundles)
    fits = any(node["Alive"] and node["Resources"].get("CPU", 0) >= wanted for node in ray.nodes())
    return "STRICT_PACK" if fits else "PACK"
