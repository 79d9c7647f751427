"""A gang: the ranks that denoise one take together. It is placed as a whole and fails as a whole.

Ray places the ranks and sends each chunk to all of them, in one call per rank. `torch.distributed` carries what they
exchange.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import ray
import torch
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from typing_extensions import override

from longtake.actors import logs
from longtake.actors.actor_group import ActorGroup
from longtake.actors.handles import ActorOptions, Handle, Ref, start_actor
from longtake.actors.rendezvous import Rendezvous, StoreAddress
from longtake.actors.stage_actor import CONTROL_GROUP, StageActor, TakeConfig
from longtake.pipeline import acts
from longtake.pipeline.acts import Act
from longtake.pipeline.errors import ActorLost
from longtake.pipeline.parallel.context_parallel import context_parallel
from longtake.pipeline.take import Take

BACKENDS = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
"""The libraries that carry tensors between ranks, by the tensors' device."""

GPU_DOMAIN = "ray.io/gpu-domain"
"""Ray's label for nodes whose GPUs are connected directly, such as the trays of one NVLink rack."""


class Rank(StageActor):
    """One rank: it denoises its share of every chunk. Rank 0 keeps the latents in the journal and returns them."""

    def __init__(self, event_log: Handle, epoch: int, rank: int, ranks: int, exchange_s: float) -> None:
        super().__init__(act="denoise", event_log=event_log, epoch=epoch)
        logs.bind(rank=rank)
        self._rank, self._ranks, self._exchange_s = rank, ranks, exchange_s
        self._rendezvous = Rendezvous(rank, ranks, exchange_s)

    def host(self) -> StoreAddress:
        """Open the store where the ranks meet: rank 0 only."""
        return self._rendezvous.host()

    def join(self, address: StoreAddress) -> None:
        """Meet the other ranks."""
        self._rendezvous.join(address, BACKENDS)

    @override
    def run(self, *arguments: Any) -> Any:
        """The latents of one chunk from rank 0, None from the others. Raises `ActorLost` if a peer is lost."""
        try:
            latents = super().run(*arguments)
        except RuntimeError as error:
            if not is_lost_peer(error):
                raise
            raise ActorLost(f"rank {self._rank} has lost a peer: {str(error).splitlines()[0]}") from error
        return latents if self._rank == 0 else None

    @override
    def _build(self, config: TakeConfig, take: Take) -> Act[Any]:
        if self._ranks == 1:
            return acts.denoise(take, self._observer)
        parallel = context_parallel(config.degrees, timeout_s=self._exchange_s)
        return acts.denoise(take, self._observer, parallel) if self._rank == 0 else acts.denoise_along(take, parallel)


def is_lost_peer(error: RuntimeError) -> bool:
    """Whether a rank raised because one of its peers is gone.

    torch has no error type for that: its backends raise a `RuntimeError` whose text names the backend.
    """
    text = str(error).lower()
    return "gloo" in text or "nccl" in text


class Gang(ActorGroup):
    """One placement group with a bundle per rank. Every rank runs every chunk; rank 0 returns the latents.

    Args:
        epoch: how many gangs of this name the pool has replaced.
        bundles: what each rank asks Ray for, such as `{"CPU": 1, "GPU": 0.7}`.
        exchange_s: how long a rank waits for its peers.
        env: environment variables of every rank.
    """

    def __init__(
        self,
        name: str,
        event_log: Handle,
        epoch: int,
        bundles: list[dict[str, float]],
        exchange_s: float,
        env: Mapping[str, str],
    ) -> None:
        self._group = placement_group(bundles, **placement(bundles, ray.nodes()))
        ranks = [
            start_actor(
                Rank,
                ActorOptions(
                    cpus=bundle["CPU"],
                    gpus=bundle.get("GPU", 0.0),
                    env=env,
                    bundle=PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=rank),
                    concurrency_groups=CONTROL_GROUP,
                ),
                event_log=event_log,
                epoch=epoch,
                rank=rank,
                ranks=len(bundles),
                exchange_s=exchange_s,
            )
            for rank, bundle in enumerate(bundles)
        ]
        super().__init__(name, ranks)

    @override
    def start(self) -> list[Ref]:
        """References that are ready once every rank has met the others."""
        if len(self.actors) == 1:
            return super().start()
        address: Ref = self.actors[0].host.remote()
        return [rank.join.remote(address) for rank in self.actors]

    @override
    def kill(self) -> None:
        """Kill all ranks at once and release their placement group."""
        super().kill()
        remove_placement_group(self._group)


def placement(bundles: Sequence[Mapping[str, float]], nodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How Ray should place a gang, whose ranks exchange tensors in every layer.

    On one node if any is large enough; else on nodes whose GPUs are connected directly, if such a domain is large
    enough; else on as few nodes as possible.

    Args:
        bundles: what each rank asks Ray for.
        nodes: as `ray.nodes()` returns them.
    """
    alive = [node for node in nodes if node["Alive"]]
    domains: dict[str, list[Mapping[str, Any]]] = {}
    for node in alive:
        if GPU_DOMAIN in node["Labels"]:
            domains.setdefault(node["Labels"][GPU_DOMAIN], []).append(node)
    if any(_fits([node], bundles) for node in alive):
        return {"strategy": "STRICT_PACK"}
    if any(_fits(domain, bundles) for domain in domains.values()):
        return {"topology_strategy": {GPU_DOMAIN: "STRICT_PACK"}}
    return {"strategy": "PACK"}


def _fits(nodes: Sequence[Mapping[str, Any]], bundles: Sequence[Mapping[str, float]]) -> bool:
    """Whether `nodes` together have the resources of all bundles."""
    return all(
        sum(node["Resources"].get(kind, 0) for node in nodes) >= sum(bundle.get(kind, 0) for bundle in bundles)
        for kind in ("CPU", "GPU")
    )
