"""A crew: who is in a company, what each is given, and how long anybody is waited for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from longtake.actors.gang import EXCHANGE_S
from longtake.actors.stage_actor import GPU_SHARES
from longtake.pipeline.parallel.degrees import Degrees
from longtake.pipeline.spec import ACT_NAMES
from longtake.pipeline.weights.options import AS_STORED, LoadOptions

USUAL_ACTS = tuple(act for act in ACT_NAMES if act != "upscale")
"""A company has a post for each of a film's acts, and "denoise 2" and so on for gangs that work ahead."""

_SHARES = {"embed": 0.1, "decode": 0.4, "upscale": 0.5, "encode": 0.3, "publish": 0.2}
"""Of a core, for whoever does not denoise."""


@dataclass(frozen=True)
class Resources:
    """What each act is given, which Ray places by; compute threads are set by the order.

    Args:
        cpus: of an act; of each rank for `denoise`.
        gpus: of an act that computes on one; of each rank for `denoise`.
        ranks: of each gang.
        gangs: that denoise scenes at once.
    """

    cpus: Mapping[str, float]
    gpus: Mapping[str, float] = field(default_factory=dict)
    ranks: int = 1
    gangs: int = 1

    @classmethod
    def of(
        cls, threads: int, ranks: int = 1, gangs: int = 1, acts: Sequence[str] = USUAL_ACTS, device: str = "cpu"
    ) -> Self:
        """A denoiser with `threads` cores for each of its ranks; what else a film usually needs shares one."""
        gpus = {act: share for act, share in GPU_SHARES.items() if act in acts} if device == "cuda" else {}
        return cls({act: _SHARES.get(act, threads) for act in acts}, gpus, ranks, gangs)

    @property
    def num_cpus(self) -> float:
        """All of them."""
        return self._sum(self.cpus)

    @property
    def num_gpus(self) -> float:
        """All of them."""
        return self._sum(self.gpus)

    def bundle(self, act: str) -> dict[str, float]:
        """What Ray gives to one actor of `act`."""
        gpus = self.gpus.get(act)
        return {"CPU": self.cpus[act], **({"GPU": gpus} if gpus else {})}

    def _sum(self, shares: Mapping[str, float]) -> float:
        return sum(shares.values()) + (self.gangs * self.ranks - 1) * shares.get("denoise", 0.0)


@dataclass(frozen=True)
class Timeouts:
    """How long a company waits, in seconds.

    Args:
        start: for its actors to stand, back-off included: a node that died looks alive for about 12 s.
        exchange: of a rank for its peers.
        chunk: for a chunk; whoever has been at one for longer is wedged. Longer than `exchange`, after which a rank
            that waits for a wedged peer raises by itself.
        pulse: for an answer from whoever should give one at once.
        back_off: after the second failure in a row; doubled after each further one, up to `longest_back_off`.
    """

    start: float = 180.0
    exchange: float = EXCHANGE_S
    chunk: float = 900.0
    heartbeat: float = 10.0
    back_off: float = 1.0
    longest_back_off: float = 30.0

    @classmethod
    def of(cls, chunk: float) -> Self:
        """Patience for chunks that take `chunk` seconds at most."""
        return cls(chunk=chunk, exchange=min(EXCHANGE_S, chunk / 2))

    def back_off_after(self, failures: int) -> float:
        """How long to wait after so many failures in a row."""
        return 0.0 if failures < 2 else min(self.longest_back_off, self.back_off * 2 ** (failures - 2))


@dataclass(frozen=True)
class PoolConfig:
    """Who is in a company: resources of every act, compute threads, how the ranks share each chunk, how models load."""

    resources: Resources
    threads: int = 1
    degrees: Degrees = field(default_factory=Degrees)
    timeouts: Timeouts = field(default_factory=Timeouts)
    load: LoadOptions = field(default_factory=LoadOptions)

    @classmethod
    def of(
        cls,
        threads: int = 1,
        degrees: Degrees | None = None,
        timeouts: Timeouts | None = None,
        gangs: int = 1,
        acts: Sequence[str] = USUAL_ACTS,
        load: LoadOptions = AS_STORED,
    ) -> Self:
        """The crew for so many threads, ranks and gangs, for films of these acts, with the model opened by `load`."""
        degrees = degrees or Degrees()
        resources = Resources.of(threads, degrees.ranks, gangs, acts, load.device.type)
        return cls(resources, threads, degrees, timeouts or Timeouts(), load)

    @property
    def gangs(self) -> tuple[str, ...]:
        """The posts that denoise."""
        return ("denoise", *(f"denoise {number + 1}" for number in range(1, self.resources.gangs)))

    @property
    def groups(self) -> tuple[str, ...]:
        """All posts."""
        return (*self.resources.cpus, *self.gangs[1:])
