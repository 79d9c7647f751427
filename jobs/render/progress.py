"""Progress of a render: chunks that are published, speed and time left."""

from collections.abc import Mapping
from datetime import datetime
from statistics import median
from time import time
from typing import Any

from typing_extensions import override

from longtake.jobs.pace import Pace
from longtake.jobs.progress import Progress
from longtake.pipeline.clock import ChunkSpan
from longtake.pipeline.observe import Observer
from longtake.pipeline.plan import FilmPlan
from longtake.pipeline.take import Take

_LATENT_STAGES = ("embed", "denoise")
_CALLS = 4096
"""What the calls of a pass cost per token, in keys attended to: a small model hardly notices how many keys it sees."""


class StagePace:
    """One stage's speed in this run, and what is left for it.

    Args:
        missing: the work of each chunk that the stage has to do, by index.
    """

    def __init__(self, missing: Mapping[int, float]) -> None:
        self._missing = dict(missing)
        self._pace = Pace()
        self._seconds: list[float] = []
        self._last_s = 0.0
        self.total = len(missing)

    @property
    def done(self) -> int:
        """Chunks that were finished in this run."""
        return self.total - len(self._missing)

    @property
    def chunk_s(self) -> float:
        """Median seconds of a chunk; 0 before the first."""
        return median(self._seconds) if self._seconds else 0.0

    @property
    def per_s(self) -> float | None:
        """Work per second; None before the second chunk."""
        return self._pace.per_s

    def add(self, chunk: int, at_s: float, seconds: float) -> bool:
        """The stage finished `chunk`. Returns False if it was finished before."""
        work = self._missing.pop(chunk, None)
        if work is None:
            return False
        self._pace.add(at_s, work)
        self._seconds.append(seconds)
        self._last_s = at_s
        return True

    def ends_s(self) -> float | None:
        """When the stage will have finished, on the clock of `add`; None if that cannot be known yet."""
        left_s = self._pace.left_s(sum(self._missing.values())) if self._missing else 0.0
        return None if left_s is None else self._last_s + left_s


class RenderProgress(Observer):
    """An observer that shows the events of a render. It is made before the render: events arrive some time later."""

    def __init__(self, take: Take, progress: Progress) -> None:
        self._plan, self._progress = take.plan, progress
        self._segments, self._latents = (frozenset(take.journal.kept(kind)) for kind in ("segments", "latents"))
        self._stages: dict[str, StagePace] = {}
        self.kept, self.rendered = len(self._segments), 0

    @override
    def event(self, name: str, **fields: Any) -> None:
        if self._progress.feedback.verbose:
            told = "  ".join(f"{key} {value}" for key, value in fields.items() if key != "time")
            self._progress.say(f"{name}  {told}")
        stage, _, what = name.partition(".")
        if what == "chunk" and stage in self._stages:
            self._chunk(stage, fields)
        elif name == "film.start":
            self._start()
        elif name == "cluster.start":
            self._progress.phase("starting Ray")
        elif name == "cluster.wait":
            self._progress.phase(f"waiting for the cluster: {fields['reason']}")
        elif name == "actors.start":
            self._progress.phase(f"starting {fields['actors']} actors")
        elif name == "actors.load":
            self._progress.phase(f"loading {self._plan.storyboard.model} on {fields['actors']} actors")
        elif name == "actor.replaced":
            self._progress.say(f"{fields['act']} {fields['reason']}; replacing it.")

    def _start(self) -> None:
        plan = self._plan
        unfinished = [chunk for chunk in plan.chunks if chunk.index not in self._segments]
        latents = {chunk.index: denoising_work(plan, chunk) for chunk in unfinished if chunk.index not in self._latents}
        frames = {chunk.index: float(len(chunk.frames)) for chunk in unfinished}
        self._stages = {
            stage: StagePace(latents if stage in _LATENT_STAGES else frames) for stage in plan.storyboard.acts
        }
        self._progress.count("rendering", "chunks", len(plan.chunks), self.kept)

    def _chunk(self, stage: str, fields: Mapping[str, Any]) -> None:
        at_s = datetime.fromisoformat(fields["time"]).timestamp() if "time" in fields else time()
        pace = self._stages[stage]
        is_new = pace.add(fields["chunk"], at_s, fields["seconds"])
        note = f"{1000 * pace.chunk_s:.0f} ms/chunk" if pace.chunk_s else ""
        self._progress.stage(stage, len(self._plan.chunks) - pace.total + pace.done, len(self._plan.chunks), note)
        if stage == "publish" and is_new:
            self.rendered += 1
        self._show(at_s)

    def _show(self, now: float) -> None:
        ends_s, publish = self._ends_s(), self._stages["publish"]
        speed, fields = "", dict[str, float]()
        if publish.per_s is not None:
            realtime = publish.per_s / float(self._plan.clock.fps)
            chunks_per_s = publish.per_s * len(self._plan.chunks) / self._plan.num_frames
            speed = f"{chunks_per_s:.2f} chunks/s, {realtime:.2f}x real time"
            fields = {"chunks_per_s": round(chunks_per_s, 4), "realtime": round(realtime, 4)}
        self._progress.update(
            self.kept + self.rendered, speed=speed, left_s=ends_s and max(0.0, ends_s - now), **fields
        )

    def _ends_s(self) -> float | None:
        """When the film will be done: when the slowest stage is, and the last chunk has passed the later stages."""
        names = [stage for stage in self._stages if stage != "publish"]
        ends: list[float] = []
        for position, name in enumerate(names):
            ends_s = self._stages[name].ends_s()
            if ends_s is None:
                return None
            ends.append(ends_s + sum(self._stages[later].chunk_s for later in (*names[position + 1 :], "publish")))
        return max(ends)


def denoising_work(plan: FilmPlan, chunk: ChunkSpan) -> float:
    """The cost of `chunk` up to a constant: its passes, and in each for every token layers, calls and attention."""
    width = max(site.num_heads * site.head_dim for site in plan.sites)
    visible = plan.kv_plan.visible(chunk.section, chunk.index)
    tokens = plan.tokens(chunk)
    keys = tokens + sum(plan.tokens(plan.span(index)) for index in visible)
    return plan.passes(chunk) * tokens * (8 * width + _CALLS + keys)
