"""The options of a batch."""

from dataclasses import dataclass

from longtake.actors.policy import NODES_S, RetryPolicy
from longtake.jobs.batch.scheduler import RETRIES


@dataclass(frozen=True)
class BatchOptions:
    """The flags of `longtake batch`, which its help explains."""

    gangs: int = 1
    max_parallel: int | None = None
    ranks: int = 1
    threads: int = 1
    retries: RetryPolicy = RETRIES
    retry_quarantined: bool = False
    price_per_hour: float | None = None
    address: str | None = None
    budget_mib: int = 256
    chunk_deadline_s: float = 900.0
    nodes_s: float = NODES_S
    overrides: tuple[str, ...] = ()
    dtype: str | None = None
    quantize: str | None = None
    device: str = "auto"
    offload: str = "none"
    numerics: str = "exact"
    compile: str = "auto"
    replace: bool = False
    any_size: bool = False

    @property
    def at_once(self) -> int:
        """The number of takes that may be rendered at once."""
        return min(self.gangs, self.max_parallel or self.gangs)
