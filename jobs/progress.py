"""Progress of a render in the terminal: a bar for each stage, chunks per second, real-time factor, time left."""

from time import monotonic
from types import TracebackType
from typing import Any, Self

from rich import progress
from rich.console import Console
from typing_extensions import override

from longtake.pipeline.observe import Observer
from longtake.pipeline.plan import FilmPlan


class Progress(Observer):
    """An observer that draws progress bars; `with Progress(plan, console) as observer`."""

    def __init__(self, plan: FilmPlan, console: Console) -> None:
        self._plan = plan
        self._bars = progress.Progress(
            progress.TextColumn("{task.description:>8}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[rate]}"),
            progress.TimeRemainingColumn(),
            console=console,
        )
        self._tasks = {act: self._bars.add_task(act, total=len(plan.chunks), rate="") for act in plan.storyboard.acts}
        self._busy_s = dict.fromkeys(plan.storyboard.acts, 0.0)

    def __enter__(self) -> Self:
        self._started = monotonic()
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self._bars.stop()

    @override
    def event(self, name: str, **fields: Any) -> None:
        if name == "cluster.wait":
            self._bars.console.print(f"On the cluster: {fields['reason']}.", highlight=False)
        act, _, what = name.partition(".")
        if what != "chunk" or act not in self._tasks:
            return
        done = fields["chunk"] + 1
        self._busy_s[act] += fields["seconds"]
        self._bars.update(self._tasks[act], completed=done, rate=f"{1000 * self._busy_s[act] / done:.0f} ms/chunk")
        if act == "publish":
            self._bars.update(self._tasks[act], rate=self._speed(done))

    def _speed(self, done: int) -> str:
        elapsed_s = monotonic() - self._started
        film_s = float(self._plan.chunks[done - 1].frames.stop / self._plan.clock.fps)
        return f"{done / elapsed_s:.2f} chunks/s, {film_s / elapsed_s:.2f}x real time"
