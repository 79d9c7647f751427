"""An upscale worker: a stateless actor that makes any segment of a film from end to end.

It reads, upscales, encodes and keeps a segment in one call and returns a receipt, so nothing large travels through Ray.
The journal is the only truth: a worker that dies costs only the segment that it worked on, which another worker makes.
"""

import os
from dataclasses import dataclass
from typing import IO, Self

import psutil
import ray
import torch

from longtake.actors import logs
from longtake.pipeline.adapters.upscalers import open_upscaler
from longtake.pipeline.footage.values import Footage
from longtake.pipeline.journal.keys import Parts
from longtake.pipeline.journal.store import Store
from longtake.pipeline.journal.writer import lend_hand
from longtake.pipeline.models.devices import settle
from longtake.pipeline.models.streaming_upscaler import StreamingUpscaler
from longtake.pipeline.provenance import check_same
from longtake.pipeline.upscaling.boundary import BoundaryError, boundary_error
from longtake.pipeline.upscaling.footage_segment import FootageSegmentMaker, FootageSegmentReport
from longtake.pipeline.upscaling.plan import UpscalePlan
from longtake.pipeline.upscaling.preflight import check_memory, worker_bytes
from longtake.pipeline.upscaling.work import Upscaling, numerics
from longtake.pipeline.weights.options import Numerics


@dataclass(frozen=True)
class WorkerConfig:
    """What a worker computes with.

    Args:
        model: a name or a file; see `open_upscaler`.
        threads: compute threads.
        numerics: which processors may compute.
    """

    model: str = "upscaler"
    device: str = "cpu"
    threads: int = 1
    numerics: Numerics = "exact"

    def load(self) -> StreamingUpscaler:
        """Configure this process and load the model."""
        settle(self.threads, self.device)
        return open_upscaler(self.model, self.device)


@dataclass(frozen=True)
class UpscaleTask:
    """What a worker must know about a film to work on it: plain data.

    Args:
        url: of the journal's store.
        numerics: what the journal's keys promise; a worker that would compute other bits refuses to start.
    """

    footage: Footage
    plan: UpscalePlan
    url: str
    numerics: Parts
    config: WorkerConfig

    @classmethod
    def of(cls, work: Upscaling, config: WorkerConfig) -> Self:
        """The task of the workers of `work`."""
        return cls(work.footage, work.plan, work.store.url, work.numerics, config)

    def open(self, model: StreamingUpscaler) -> Upscaling:
        """The work in this process. Raises `JournalError` where this process would compute other bits."""
        check_same(numerics(model, self.config.numerics), self.numerics)
        return Upscaling(self.footage, self.plan, Store(self.url), self.numerics)


class UpscalerActor:
    """A worker in a process of its own."""

    def __init__(self, number: int, epoch: int) -> None:
        self._log = logs.configure()
        logs.bind(act="upscale", worker=number, epoch=epoch)
        self._hand: IO[str] | None = None

    def open(self, task: UpscaleTask) -> int:
        """Load the model: the process id. Raises `CapacityError` where there is too little memory."""
        self.close()
        model = task.config.load()
        work = task.open(model)
        check_memory(worker_bytes(work.footage, work.plan.spec.scale, model), free_bytes(task.config.device))
        self._work, self._model = work, model
        self._make = FootageSegmentMaker(work, model)
        self._hand = lend_hand(work.store)
        return os.getpid()

    def close(self) -> None:
        """Release the work."""
        if self._hand is not None:
            self._hand.close()
            self._hand = None

    def make(self, index: int) -> FootageSegmentReport:
        """Make one segment."""
        with logs.context(segment=index):
            try:
                return self._make(self._work.plan.segments[index])
            except Exception:
                self._log.exception("segment.raised")
                raise

    def boundary_error(self) -> BoundaryError | None:
        """`upscaling.boundary.boundary_error` of this work."""
        return boundary_error(self._work, self._model)


def free_bytes(device: str) -> int:
    """Free memory for a worker: of this machine, or of the GPU that Ray assigned to it."""
    return psutil.virtual_memory().available if device == "cpu" else torch.cuda.mem_get_info()[0]


def numerics_there(config: WorkerConfig) -> Parts:
    """The numerics of a worker, computed on its node: for drivers whose machine differs from their workers'."""
    task = ray.remote(_numerics).options(num_cpus=config.threads, num_gpus=int(config.device != "cpu"))
    parts: Parts = ray.get(task.remote(config))
    return parts


def _numerics(config: WorkerConfig) -> Parts:
    return numerics(config.load(), config.numerics)
