"""What Prometheus is told of a render: few series, tagged by act and gang only, never by what there is ever more of."""

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
"""The names under which Prometheus sees them."""

SECONDS = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0]
"""Bounds of the histogram: from an act of the embedded model to a large one's chunk."""

PACE_CHUNKS = 16
"""How many published chunks the real-time factor looks back on."""


class Meters:
    """An observer that keeps the metrics of one take after another.

    Args:
        gang: which of the gangs that render side by side this is; few, such as "0".
    """

    def __init__(self, gang: str = "0") -> None:
        self._seconds = Histogram(
            CHUNK_SECONDS, "Seconds that an act took for a chunk.", boundaries=SECONDS, tag_keys=("act", "gang")
        )
        self._bytes = Gauge(BYTES_IN_FLIGHT, "What the chunks in flight weigh, at most.", tag_keys=("gang",))
        self._realtime = Gauge(
            REALTIME_FACTOR, f"Seconds of film per second, over {PACE_CHUNKS} chunks.", tag_keys=("gang",)
        )
        self._published = Counter(CHUNKS_PUBLISHED, "Chunks that can be watched.", tag_keys=("gang",))
        self._restarts = Counter(RESTARTS, "Actors and gangs that were replaced.", tag_keys=("act", "gang"))
        for metric in (self._seconds, self._bytes, self._realtime, self._published, self._restarts):
            metric.set_default_tags({"gang": gang})
        self._pace = Pace()

    def event(self, name: str, fields: Mapping[str, Any]) -> None:
        """Something happened; see `longtake.pipeline.observe.Observer.event`."""
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
        """What the chunks in flight weigh now."""
        self._bytes.set(num_bytes)


class NoMeters:
    """Where nobody collects metrics."""

    def event(self, name: str, fields: Mapping[str, Any]) -> None:
        """See `Meters.event`."""

    def in_flight(self, num_bytes: int) -> None:
        """See `Meters.in_flight`."""


class Pace:
    """Seconds of film per second, from when the latest chunks were published.

    Args:
        chunk_s: how long a chunk of the film is, in the mean.
    """

    def __init__(self, chunk_s: float = 0.0) -> None:
        self._chunk_s = chunk_s
        self._landed: deque[float] = deque(maxlen=PACE_CHUNKS + 1)

    def landed(self, now_s: float) -> float:
        """A chunk was published: the pace since the oldest one looked back on, 0 as long as there is none."""
        self._landed.append(now_s)
        elapsed_s = now_s - self._landed[0]
        return (len(self._landed) - 1) * self._chunk_s / elapsed_s if elapsed_s > 0 else 0.0


def meters(gang: str = "0") -> Meters | NoMeters:
    """Meters, or none of them where Ray does not collect metrics, as on a cluster of our own."""
    setting = os.environ.get("RAY_enable_metrics_collection", "1")  # noqa: SIM112 (Ray's own spelling)
    collected = setting.lower() not in ("0", "false")
    return Meters(gang) if collected else NoMeters()
