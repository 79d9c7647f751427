"""A film of a thousand chunks through the whole pipeline: neither chunk time nor memory may grow with the film."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import torch

from longtake.jobs.bench.figures import BenchOptions
from longtake.pipeline.film import render
from longtake.pipeline.journal.store import Store
from longtake.pipeline.models.embedded import TINY, EmbeddedModel
from longtake.pipeline.plan import plan_film
from longtake.pipeline.provenance import numerics
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.take import open_take


@dataclass(frozen=True)
class Spans:
    """Chunks of the film that are compared.

    Args:
        chunks: all of them.
        warm: chunks before the early span, which are not counted.
        compared: length of the early and of the late span.
    """

    chunks: int
    warm: int = 20
    compared: int = 50


class _Meter:
    """Observes a render: seconds of each chunk in all stages, and resident bytes after it."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.resident: list[int] = []
        self._process = psutil.Process()
        self._chunk_s = 0.0

    def event(self, name: str, **fields: Any) -> None:
        if name.endswith(".chunk"):
            self._chunk_s += fields["seconds"]
        if name == "publish.chunk":
            self.seconds.append(self._chunk_s)
            self.resident.append(self._process.memory_info().rss)
            self._chunk_s = 0.0


def measure(options: BenchOptions) -> Mapping[str, float]:
    """Render one film of one-second chunks on one thread with the tiny random model."""
    spans = options.pick(full=Spans(1000), quick=Spans(250), smoke=Spans(6, warm=1, compared=3))
    storyboard = parse_storyboard(
        f"{{seed: {options.seed}, model: tiny, sampling: {{steps: 2}},"
        f" scenes: [{{prompt: a red circle bounces, duration: {spans.chunks}s}}]}}"
    )
    torch.set_num_threads(1)
    meter = _Meter()
    with TemporaryDirectory() as folder:
        model = EmbeddedModel.untrained(TINY, options.seed)
        render(open_take(plan_film(storyboard, model), model, Store(folder), numerics(model)), meter)
    seconds, early_bytes = meter.seconds[spans.warm :], meter.resident[spans.compared - 1]
    return {
        "chunk_time_growth": median(seconds[-spans.compared :]) / median(seconds[: spans.compared]),
        "chunk_time_p95": quantiles(seconds, n=20)[-1] / median(seconds),
        "chunk_time_s": median(seconds),
        "memory_growth": meter.resident[-1] / early_bytes - 1,
    }
