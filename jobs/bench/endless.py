"""A thousand chunks through the whole road: neither chunk time nor memory may grow with the film."""

from collections.abc import Mapping
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import torch

from longtake.jobs.bench import Bench, BenchOptions, Figure
from longtake.pipeline.film import render
from longtake.pipeline.journal.store import Store
from longtake.pipeline.models.embedded import TINY, EmbeddedModel
from longtake.pipeline.plan import plan_film
from longtake.pipeline.provenance import numerics
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.take import open_take

CHUNKS, QUICK_CHUNKS = 1000, 250
WARM, REFERENCE_STOP, LAST = 20, 70, 50


class _Meter:
    """Observes a render: seconds of each chunk over all acts, and resident bytes after it."""

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
    """One film of 1,000 one-second chunks (250 where quick), one thread, tiny random model."""
    chunks = QUICK_CHUNKS if options.quick else CHUNKS
    storyboard = parse_storyboard(
        f"{{seed: {options.seed}, model: tiny, sampling: {{steps: 2}},"
        f" scenes: [{{prompt: a red circle bounces, duration: {chunks}s}}]}}"
    )
    torch.set_num_threads(1)
    meter = _Meter()
    with TemporaryDirectory() as folder:
        model = EmbeddedModel.untrained(TINY, options.seed)
        render(open_take(plan_film(storyboard, model), model, Store(folder), numerics(model)), meter)
    early = median(meter.seconds[WARM:REFERENCE_STOP])
    early_bytes = meter.resident[LAST - 1]
    return {
        "chunk_time_growth": median(meter.seconds[-LAST:]) / early,
        "chunk_time_p95": quantiles(meter.seconds[WARM:], n=20)[-1] / median(meter.seconds[WARM:]),
        "chunk_time_s": median(meter.seconds[WARM:]),
        "memory_growth": meter.resident[-1] / early_bytes - 1,
    }


BENCH = Bench(
    {
        "chunk_time_growth": Figure("median time of the last 50 chunks over that of chunks 20-70", at_most=1.05),
        "chunk_time_p95": Figure("95th percentile of chunk time over its median, canonical rebuilds included"),
        "chunk_time_s": Figure("median seconds of a chunk, all acts together"),
        "memory_growth": Figure("resident bytes at the end over those after chunk 50, minus 1", at_most=0.02),
    },
    measure,
)
