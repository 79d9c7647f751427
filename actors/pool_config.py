"""The configuration of an actor pool: its stages, what each asks Ray for, timeouts and retries."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from longtake.actors.policy import NODES_S, START_S, RetryPolicy
from longtake.pipeline.parallel.degrees import EXCHANGE_S, Degrees
from longtake.pipeline.registry import STAGES
from longtake.pipeline.weights.options import AS_STORED, LoadOptions

USUAL_ACTS = tuple(name for name, stage in STAGES.items() if stage.asked_by is None)
"""The stages that every film has."""


@dataclass(frozen=True)
class Resources:
    """What each stage asks Ray for. Ray places by it; compute threads are set by `TakeConfig`.

    Args:
        cpus: of each stage; of each rank for `denoise`.
        gpus: of each stage that computes on a GPU; of each rank for `denoise`.
        ranks: of each gang.
        gangs: that denoise scenes in parallel.
    """

    cpus: Mapping[str, float]
    gpus: Mapping[str, float] = field(default_factory=dict)
    ranks: int = 1
    gangs: int = 1

    @classmethod
    def of(
        cls, threads: int, ranks: int = 1, gangs: int = 1, acts: Sequence[str] = USUAL_ACTS, device: str = "cpu"
    ) -> Self:
        """`threads` cores for each rank; the other stages of a usual film share one core."""
        stages = {act: STAGES[act] for act in acts}
        gpus = {act: stage.gpus for act, stage in stages.items() if stage.gpus} if device == "cuda" else {}
        cpus = {act: threads if stage.cpus is None else stage.cpus for act, stage in stages.items()}
        return cls(cpus, gpus, ranks, gangs)

    @property
    def num_cpus(self) -> float:
        """CPUs of all actors together."""
        return self._sum(self.cpus)

    @property
    def num_gpus(self) -> float:
        """GPUs of all actors together."""
        return self._sum(self.gpus)

    def bundle(self, act: str) -> dict[str, float]:
        """What one actor of the stage `act` asks Ray for."""
        gpus = self.gpus.get(act)
        return {"CPU": self.cpus[act], **({"GPU": gpus} if gpus else {})}

    def _sum(self, shares: Mapping[str, float]) -> float:
        return sum(shares.values()) + (self.gangs * self.ranks - 1) * shares.get("denoise", 0.0)


@dataclass(frozen=True)
class Timeouts:
    """How long to wait, in seconds.

    Args:
        start: for all actors to start, back-off included.
        nodes: in addition, for nodes that an autoscaler has yet to start.
        exchange: of a rank, for its peers.
        chunk: for a chunk, after which the actor that works on it counts as hung. Longer than `exchange`, after which
            a rank that waits for a hung peer raises by itself.
        heartbeat: for an answer to a call that takes no time.
    """

    start: float = START_S
    exchange: float = EXCHANGE_S
    chunk: float = 900.0
    heartbeat: float = 10.0
    nodes: float = NODES_S

    @classmethod
    def of(cls, chunk: float, nodes: float = NODES_S) -> Self:
        """Timeouts for chunks that take `chunk` seconds at most, and nodes that take `nodes` seconds."""
        return cls(chunk=chunk, exchange=min(EXCHANGE_S, chunk / 2), nodes=nodes)


def actor_env(threads: int) -> dict[str, str]:
    """Environment variables of an actor with so many compute threads."""
    return {"OMP_NUM_THREADS": str(threads), "RAY_ENABLE_ZERO_COPY_TORCH_TENSORS": "1"}


@dataclass(frozen=True)
class PoolConfig:
    """The configuration of an actor pool.

    Args:
        threads: compute threads of each actor.
        degrees: how the ranks of a gang share each chunk.
        retries: of a chunk that fails.
        load: how models are loaded.
    """

    resources: Resources
    threads: int = 1
    degrees: Degrees = field(default_factory=Degrees)
    timeouts: Timeouts = field(default_factory=Timeouts)
    load: LoadOptions = field(default_factory=LoadOptions)
    retries: RetryPolicy = field(default_factory=RetryPolicy)

    @classmethod
    def of(
        cls,
        threads: int = 1,
        degrees: Degrees | None = None,
        timeouts: Timeouts | None = None,
        gangs: int = 1,
        acts: Sequence[str] = USUAL_ACTS,
        load: LoadOptions = AS_STORED,
        retries: RetryPolicy | None = None,
    ) -> Self:
        """The configuration for so many threads, ranks and gangs, for films with the stages `acts`."""
        degrees = degrees or Degrees()
        resources = Resources.of(threads, degrees.ranks, gangs, acts, load.device.type)
        return cls(resources, threads, degrees, timeouts or Timeouts(), load, retries or RetryPolicy())

    @property
    def acts(self) -> tuple[str, ...]:
        """The stages that have actors."""
        return tuple(self.resources.cpus)

    @property
    def gangs(self) -> tuple[str, ...]:
        """The names of the actor groups that denoise."""
        return ("denoise", *(f"denoise {number + 1}" for number in range(1, self.resources.gangs)))

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of all actor groups."""
        return (*self.acts, *self.gangs[1:])

    def num_actors(self, groups: Iterable[str]) -> int:
        """How many actors these groups have."""
        return sum(self.resources.ranks if name in self.gangs else 1 for name in groups)
