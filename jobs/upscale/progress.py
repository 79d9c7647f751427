"""Progress of upscaling: frames, frames per second, real-time factor, time left."""

from time import monotonic
from typing import Any

from typing_extensions import override

from longtake.jobs.pace import Pace
from longtake.jobs.progress import Progress
from longtake.pipeline.footage.values import Footage
from longtake.pipeline.observe import Observer


class UpscaleProgress(Observer):
    """An observer that shows the events of an upscale."""

    def __init__(self, footage: Footage, progress: Progress) -> None:
        self._rate, self._progress = float(footage.rate), progress
        self._pace: Pace | None = None
        self._phase, self._done, self._total = "", 0, 0

    @override
    def event(self, name: str, **fields: Any) -> None:
        if self._progress.feedback.verbose:
            self._progress.say("  ".join((name, *(f"{key} {value}" for key, value in fields.items()))))
        if name == "cuts.frames":
            self._count("finding cuts", fields["total"])
            self._advance(fields["frames"] - self._done)
        elif name == "film.start":
            if fields["kept_segments"] or fields["changes"]:
                why = f"; {'; '.join(fields['changes'])}" if fields["changes"] else ""
                kept = f"{fields['kept_segments']} of {fields['segments']} segments are finished{why}"
                self._progress.say(f"Resuming {fields['url']}: {kept}.")
            self._count("upscaling", fields["frames"], fields["kept_frames"])
        elif name == "cluster.start":
            self._progress.phase("starting Ray")
        elif name == "actor.ready":
            self._start_clock()
        elif name == "actor.replaced":
            self._progress.say(f"Worker {fields['worker']} {fields['reason']}; replacing it.")
        elif name == "upscale.segment":
            self._advance(fields["frames"])

    def _count(self, phase: str, total: int, kept: int = 0) -> None:
        if phase != self._phase:
            self._phase, self._done, self._total, self._pace = phase, kept, total, None
            self._progress.count(phase, "frames", total, kept)

    def _start_clock(self) -> None:
        """Time counts from here: workers finish their first segments at about the same time."""
        if self._pace is None:
            self._pace = Pace()
            self._pace.add(monotonic(), 0)

    def _advance(self, frames: int) -> None:
        self._start_clock()
        assert self._pace is not None, "the clock has started"
        self._pace.add(monotonic(), frames)
        self._done += frames
        speed, fields = "", dict[str, float]()
        if per_s := self._pace.per_s:
            speed = f"{per_s:.2f} frames/s, {per_s / self._rate:.2f}x real time"
            fields = {"frames_per_s": round(per_s, 4), "realtime": round(per_s / self._rate, 4)}
        left_s = self._pace.left_s(self._total - self._done) if per_s else None
        self._progress.update(self._done, speed=speed, left_s=left_s, **fields)
