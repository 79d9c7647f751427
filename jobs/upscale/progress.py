"""Progress of upscaling in the terminal: frames, frames per second, real-time factor, time left."""

from types import TracebackType
from typing import Any, Self

from rich import progress
from rich.console import Console
from typing_extensions import override

from longtake.pipeline.footage.values import Footage
from longtake.pipeline.observe import Observer


class UpscaleProgress(Observer):
    """An observer that draws a progress bar; `with UpscaleProgress(footage, console) as observer`."""

    def __init__(self, footage: Footage, console: Console) -> None:
        self._rate = float(footage.rate)
        self._bars = progress.Progress(
            progress.TextColumn("{task.description:>8}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("frames"),
            progress.TextColumn("{task.fields[rate]}"),
            progress.TimeRemainingColumn(),
            console=console,
        )
        self._tasks: dict[str, progress.TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self._bars.stop()

    @override
    def event(self, name: str, **fields: Any) -> None:
        if name == "cuts.frames":
            self._show("cuts", fields["frames"], fields["total"])
        elif name == "film.start":
            if fields["kept_segments"] or fields["changes"]:
                why = f"; {'; '.join(fields['changes'])}" if fields["changes"] else ""
                kept = f"{fields['kept_segments']} of {fields['segments']} segments are finished{why}"
                self._bars.console.print(f"Resuming {fields['url']}: {kept}.", highlight=False, markup=False)
            self._show("upscale", fields["kept_frames"], fields["frames"])
        elif name == "actor.replaced":
            self._bars.console.print(
                f"Worker {fields['worker']} {fields['reason']}; replacing it.", highlight=False, markup=False
            )
        elif name == "upscale.segment":
            self._bars.advance(self._tasks["upscale"], fields["frames"])
            self._show_rate("upscale")

    def _show(self, act: str, done: int, total: int) -> None:
        self._bars.update(self._task(act, total), completed=done)
        self._show_rate(act)

    def _task(self, act: str, total: int) -> progress.TaskID:
        if act not in self._tasks:
            self._tasks[act] = self._bars.add_task(act, total=total, rate="")
        return self._tasks[act]

    def _show_rate(self, act: str) -> None:
        task = next(task for task in self._bars.tasks if task.id == self._tasks[act])
        if task.speed:
            rate = f"{task.speed:.2f}/s, {task.speed / self._rate:.2f}x real time"
            self._bars.update(task.id, rate=rate)
