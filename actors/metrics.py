"""Prometheus metrics of a render, labelled by stage and gang only, so that the number of series stays bounded."""

import os
from collections import deque
from collections.abc import Mapping
from time import monotonic
from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram

CHUNK_SECONDS = "longtake_chunk_seconds"
BYTES_IN_FLIGHT = "longtake_bytes_in_flight"
REALTIME_FACTOR = "longtake_realtime_factor"
CHUNKS_PUBLISHED = "longtake_chunks_published"
RESTARTS = "longtake_restarts"

EXPORTED = {
    f"ray_{name}"
    for name in (
        *(f"{CHUNK_SECONDS}_{part}" for part in ("bucket", "sum", "count")),
        *(f"{counter}_total" for counter in (CHUNKS_PUBLISHED, RESTARTS)),
        *(BYTES_IN_FLIGHT, REALTIME_FACTOR),
    )
}
"""The names under which Prometheus sees the metrics."""

SECONDS = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0]
"""Bounds of the histogram: from a stage of the built-in model to a chunk of a large one."""

PACE_CHUNKS = 16
"""Published chunks over which the real-time factor is measured."""


class Meters:
    """An observer that keeps the metrics of one take after another.

    Args:
        gang: the label of this gang among those that render in parallel, such as "0".
    """

    def __init__(self, gang: str = "0") -> None:
        self._seconds = Histogram(
            CHUNK_SECONDS, "Seconds that a stage took for a chunk.", boundaries=SECONDS, tag_keys=("act", "gang")
        )
        self._bytes = Gauge(BYTES_IN_FLIGHT, "Upper bound of the bytes of all chunks in flight.", tag_keys=("gang",))
        self._realtime = Gauge(
            REALTIME_FACTOR, f"Seconds of film per second, over {PACE_CHUNKS} chunks.", tag_keys=("gang",)
        )
        self._published = Counter(CHUNKS_PUBLISHED, "Chunks that were published.", tag_keys=("gang",))
        self._restarts = Counter(RESTARTS, "Actors and gangs that were replaced.", tag_keys=("act", "gang"))
        for metric in (self._seconds, self._bytes, self._realtime, self._published, self._restarts):
            metric.set_default_tags({"gang": gang})
        self._pace = Pace()

    def event(self, name: str, fields: Mapping[str, Any]) -> None:
        """Update the metrics from one event of a take."""
        act, _, what = name.partition(".")
        if what == "chunk":
            self._seconds.observe(fields["seconds"], {"act": act})
        if name == "publish.chunk":
            self._published.inc()
            self._realtime.set(self._pace.landed(monotonic()))
        elif name == "film.start":
            self._pace = Pace(fields.get("film_s", 0.0) / max(1, fields["chunks"]))
        elif name == "actor.replaced":
            self._restarts.inc(tags={"act": fields["act"]})
        elif name in ("film.done", "road.failed"):
            self.in_flight(0)
            self._realtime.set(0.0)

    def in_flight(self, num_bytes: int) -> None:
        """Set the bytes of all chunks in flight."""
        self._bytes.set(num_bytes)


class NoMeters:
    """Stands in for `Meters` where Ray does not collect metrics."""

    def event(self, name: str, fields: Mapping[str, Any]) -> None:
        """Do nothing."""

    def in_flight(self, num_bytes: int) -> None:
        """Do nothing."""


class Pace:
    """Seconds of film per second, measured over the latest published chunks.

    Args:
        chunk_s: mean duration of a chunk of the film.
    """

    def __init__(self, chunk_s: float = 0.0) -> None:
        self._chunk_s = chunk_s
        self._landed: deque[float] = deque(maxlen=PACE_CHUNKS + 1)

    def landed(self, now_s: float) -> float:
        """Record that a chunk was published; the pace over the latest chunks, 0 after the first one."""
        self._landed.append(now_s)
        elapsed_s = now_s - self._landed[0]
        return (len(self._landed) - 1) * self._chunk_s / elapsed_s if elapsed_s > 0 else 0.0


def meters(gang: str = "0") -> Meters | NoMeters:
    """Meters, or a stand-in where Ray does not collect metrics, as on a cluster that `cluster.joined` starts."""
    setting = os.environ.get("RAY_enable_metrics_collection", "1")  # noqa: SIM112 (Ray's own spelling)
    collected = setting.lower() not in ("0", "false")
    return Meters(gang) if collected else NoMeters()
