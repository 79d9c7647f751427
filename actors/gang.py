"""A gang: the ranks that denoise one take together. It is placed as a whole, and it fails as a whole.

Ray places the ranks and brings each chunk to all of them, in one call per rank; `torch.distributed` carries what they
exchange inside it. They meet at a store that rank 0 keeps for as long as it lives.
"""

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
import torch
import torch.distributed as dist
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from longtake.actors import logs
from longtake.actors.actor_group import ActorGroup, start_actor
from longtake.actors.stage_actor import StageActor, TakeConfig
from longtake.pipeline import acts
from longtake.pipeline.acts import Act
from longtake.pipeline.errors import ActorLost
from longtake.pipeline.parallel.context_parallel import context_parallel
from longtake.pipeline.take import Take

BACKENDS = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
"""Who carries tensors between ranks, by where the tensors are."""

GPU_DOMAIN = "ray.io/gpu-domain"
"""Ray's label for nodes whose GPUs are wired together, such as the trays of one NVLink rack."""

EXCHANGE_S = 120.0
"""How long a rank waits for its peers, in an exchange or to meet, unless told otherwise."""


@dataclass(frozen=True)
class Meeting:
    """Where ranks meet."""

    host: str
    port: int


class Rank(StageActor):
    """One rank: a denoiser that shares every chunk with its peers. Rank 0 keeps what they have made, and returns it."""

    def __init__(self, event_log: ActorHandle, epoch: int, rank: int, ranks: int, exchange_s: float) -> None:
        super().__init__("denoise", event_log, epoch)
        logs.bind(rank=rank)
        self._rank, self._ranks, self._timeout = rank, ranks, timedelta(seconds=exchange_s)

    def host(self) -> Meeting:
        """Keep the store where the ranks meet: rank 0 only."""
        address = ray.util.get_node_ip_address()
        listener = socket.create_server((address, 0))
        port = listener.getsockname()[1]
        self._store = dist.TCPStore(
            *(address, port, self._ranks),
            is_master=True,
            timeout=self._timeout,
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )
        return Meeting(address, port)

    def meet(self, meeting: Meeting) -> None:
        """Join the peers."""
        store = self._store if self._rank == 0 else dist.TCPStore(meeting.host, meeting.port, timeout=self._timeout)
        dist.init_process_group(BACKENDS, store=store, rank=self._rank, world_size=self._ranks, timeout=self._timeout)

    def run(self, *arguments: Any) -> Any:
        """The latents of one chunk from rank 0, nothing from the others. Raises `ActorLost` if a peer is gone."""
        try:
            latents = super().run(*arguments)
        except RuntimeError as error:
            if not any(word in str(error).lower() for word in ("gloo", "nccl")):
                raise
            raise ActorLost(f"rank {self._rank} has lost a peer: {str(error).splitlines()[0]}") from error
        return latents if self._rank == 0 else None

    def _build(self, order: TakeConfig, take: Take) -> Act[Any]:
        if self._ranks == 1:
            return acts.denoise(take, self._observer)
        parallel = context_parallel(order.degrees)
        return acts.denoise(take, self._observer, parallel) if self._rank == 0 else acts.denoise_along(take, parallel)


class Gang(ActorGroup):
    """One placement group with a rank per bundle; every rank runs every chunk, rank 0 returns it.

    Args:
        epoch: how many gangs of the company came before.
        bundles: what each rank is given, such as `{"CPU": 1, "GPU": 0.7}`.
        exchange_s: how long a rank waits for its peers.
        runtime_env: of every rank.
    """

    def __init__(
        self,
        name: str,
        event_log: ActorHandle,
        epoch: int,
        bundles: list[dict[str, float]],
        exchange_s: float,
        runtime_env: dict[str, Any],
    ) -> None:
        self._group = placement_group(bundles, **placement(bundles, ray.nodes()))
        ranks = [
            start_actor(
                *(Rank, event_log, epoch, rank, len(bundles), exchange_s),
                cpus=bundle["CPU"],
                gpus=bundle.get("GPU", 0.0),
                runtime_env=runtime_env,
                scheduling_strategy=PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=rank),
            )
            for rank, bundle in enumerate(bundles)
        ]
        super().__init__(name, ranks)

    def start(self) -> list[ObjectRef]:
        """See `ActorGroup.start`: every rank has met the others."""
        if len(self.actors) == 1:
            return super().start()
        meeting = self.actors[0].host.remote()
        return [rank.meet.remote(meeting) for rank in self.actors]

    def kill(self) -> None:
        """See `ActorGroup.kill`; the room is given back."""
        super().kill()
        remove_placement_group(self._group)


def placement(bundles: Sequence[Mapping[str, float]], nodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How to place a gang, whose ranks talk in every layer: on one node, if any is large enough; else on nodes whose
    GPUs are wired together, if any such domain is; else on as few nodes as will do.

    Args:
        bundles: what each rank is given.
        nodes: as `ray.nodes()` tells them.
    """
    alive = [node for node in nodes if node["Alive"]]
    domains: dict[str, list[Mapping[str, Any]]] = {}
    for node in alive:
        if GPU_DOMAIN in node["Labels"]:
            domains.setdefault(node["Labels"][GPU_DOMAIN], []).append(node)
    if any(_holds([node], bundles) for node in alive):
        return {"strategy": "STRICT_PACK"}
    if any(_holds(domain, bundles) for domain in domains.values()):
        return {"topology_strategy": {GPU_DOMAIN: "STRICT_PACK"}}
    return {"strategy": "PACK"}


def _holds(nodes: Sequence[Mapping[str, Any]], bundles: Sequence[Mapping[str, float]]) -> bool:
    """Whether `nodes` together have what all bundles ask for."""
    return all(
        sum(node["Resources"].get(kind, 0) for node in nodes) >= sum(bundle.get(kind, 0) for bundle in bundles)
        for kind in ("CPU", "GPU")
    )
