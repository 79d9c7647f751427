"""UpscalePool: workers without a past, each of which makes any segment from end to end.

A worker reads, upscales, encodes and keeps a segment in one call, and answers with a receipt: nothing large travels
through Ray. The journal is the only truth, so a worker that dies costs the segment it was at, which another one makes.
"""

import os
from dataclasses import dataclass
from typing import Any, Self

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


@dataclass(frozen=True)
class WorkerConfig:
    """What a worker computes with: the model's name or file, see `open_upscaler`, a device, compute threads."""

    model: str = "upscaler"
    device: str = "cpu"
    threads: int = 1

    def load(self) -> StreamingUpscaler:
        """Set this process up, and load the model."""
        settle(self.threads, self.device)
        return open_upscaler(self.model, self.device)


@dataclass(frozen=True)
class UpscaleTask:
    """What a worker must know to take part: pure data.

    Args:
        url: of the journal's store.
        numerics: what the journal's keys promise; a worker that computes otherwise refuses to start.
    """

    footage: Footage
    plan: UpscalePlan
    url: str
    numerics: Parts
    tools: WorkerConfig

    @classmethod
    def of(cls, work: Upscaling, tools: WorkerConfig) -> Self:
        """The order for taking part in `work`."""
        return cls(work.footage, work.plan, work.store.url, work.numerics, tools)

    def open(self, model: StreamingUpscaler) -> Upscaling:
        """The work, as this process sees it. Raises `JournalError` where its bits would differ."""
        check_same(numerics(model), self.numerics)
        return Upscaling(self.footage, self.plan, Store(self.url), self.numerics)


class UpscalerActor:
    """A worker in a process of its own."""

    def __init__(self, number: int, epoch: int) -> None:
        self._log = logs.configure()
        logs.bind(act="upscale", worker=number, epoch=epoch)
        self._hand: Any = None

    def open(self, order: UpscaleTask) -> int:
        """Load the model and stand ready; the process's id. Raises `CapacityError` where there is too little memory."""
        self.close()
        model = order.tools.load()
        work = order.open(model)
        check_memory(worker_bytes(work.footage, work.plan.spec.scale, model), free_bytes(order.tools.device))
        self._work, self._model = work, model
        self._make = FootageSegmentMaker(work, model)
        self._hand = lend_hand(work.store)
        return os.getpid()

    def close(self) -> None:
        """Let go of the work."""
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
        """See the function of that name."""
        return boundary_error(self._work, self._model)


def free_bytes(device: str) -> int:
    """Memory that is free for a worker: of this machine, or of the GPU that it was given."""
    return psutil.virtual_memory().available if device == "cpu" else torch.cuda.mem_get_info()[0]


def numerics_there(tools: WorkerConfig) -> Parts:
    """The numerics of a worker, asked of one: for drivers on machines that are unlike their workers'."""
    asked = ray.remote(_numerics).options(num_cpus=tools.threads, num_gpus=int(tools.device != "cpu"))
    parts: Parts = ray.get(asked.remote(tools))
    return parts


def _numerics(tools: WorkerConfig) -> Parts:
    return numerics(tools.load())
