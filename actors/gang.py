"""A gang: the ranks that denoise one take together. It is placed as a whole, and it fails as a whole."""

from typing import Any

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.stage import Order, StageActor


class Gang:
    """One placement group with a rank per bundle; every rank runs every chunk, rank 0 returns it.

    Args:
        bundles: what each rank is given, such as `{"CPU": 1}`.
        runtime_env: of every rank.
    """

    def __init__(
        self, order: Order, scribe: ActorHandle, bundles: list[dict[str, float]], runtime_env: dict[str, Any]
    ) -> None:
        self._group = placement_group(bundles, strategy="STRICT_PACK")
        self.ranks = [
            ray.remote(StageActor)
            .options(
                num_cpus=bundle["CPU"],
                num_gpus=0,
                max_restarts=0,
                max_task_retries=0,
                runtime_env=runtime_env,
                scheduling_strategy=PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=rank),
            )
            .remote("denoise", order, scribe)
            for rank, bundle in enumerate(bundles)
        ]

    def remote(self, *arguments: Any) -> ObjectRef:
        """Denoise one chunk: a reference to its latents."""
        latents, *_ = [rank.run.remote(*arguments) for rank in self.ranks]
        return latents

    def release(self) -> None:
        """Give the room back."""
        remove_placement_group(self._group)
