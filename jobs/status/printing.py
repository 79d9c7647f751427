"""Prints the progress of a take, from any machine that can read its output folder."""

from time import sleep

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from longtake.jobs.batch.roster import batch_folder
from longtake.jobs.feedback import Feedback, plain_console
from longtake.jobs.interrupt import until_ctrl_c
from longtake.jobs.status.batch import print_batch
from longtake.pipeline.inspect.status import Status, TakeReader
from longtake.pipeline.journal.root import has_take, take_root
from longtake.pipeline.journal.writer import owner_of

_COLOURS = {"rendering": "yellow", "done": "green", "failed": "red", "interrupted": "yellow", "stalled": "yellow"}
_SCENES_SHOWN = 12


def print_status(output: str, *, watch: bool, as_json: bool) -> None:
    """Print the status of the take or batch in `output`; with `watch`, every second until the end or Ctrl-C."""
    root = take_root(output, may_come=True)
    batch = None if has_take(root) else batch_folder(root)
    if batch is not None:
        print_batch(batch, watch=watch, as_json=as_json)
        return
    if not has_take(root) and (owner := owner_of(root)) is not None:
        text = f"{owner.who}, starts to render into {root.url}"
        Feedback(json=as_json).result(f"{text}.", state="starting", summary=text)
        return
    reader, console = TakeReader(take_root(output)), plain_console()
    status = reader.read()
    with until_ctrl_c():
        if as_json:
            _print_json(reader, status, watch=watch)
        elif watch:
            _watch(reader, status, console)
        else:
            console.print(_layout(status))


def _print_json(reader: TakeReader, status: Status, *, watch: bool) -> None:
    print(status.model_dump_json(), flush=True)
    while watch and _is_running(status):
        sleep(1)
        status = reader.read()
        print(status.model_dump_json(), flush=True)


def _watch(reader: TakeReader, status: Status, console: Console) -> None:
    with Live(_layout(status), console=console, auto_refresh=False) as live:
        while _is_running(status):
            sleep(1)
            status = reader.read()
            live.update(_layout(status), refresh=True)


def _is_running(status: Status) -> bool:
    return status.state in ("rendering", "stalled")


def _layout(status: Status) -> Group:
    head = Text.assemble((status.title, "bold"), "  ", (status.state, _COLOURS[status.state]), "  ", _pace(status))
    trouble = [Text(status.error, style="red")] if status.error else []
    return Group(head, *trouble, Text(status.summary), "", _acts(status), "", _scenes(status))


def _pace(status: Status) -> str:
    parts = [f"{_clock(status.published_s)} of {_clock(status.film_s)} published"]
    if status.realtime is not None:
        parts.append(f"{status.realtime:.2f}x real time")
    if status.eta_s is not None:
        parts.append(f"about {_clock(status.eta_s)} left")
    return ", ".join(parts)


def _acts(status: Status) -> Table:
    table = Table("stage", "", "chunks", "kept", "median", "last", box=None, pad_edge=False)
    for act in status.acts:
        table.add_row(
            act.act,
            ProgressBar(total=status.chunks, completed=act.done, width=30),
            f"{act.done}/{status.chunks}",
            str(act.kept or ""),
            _work(act.median_s),
            _work(act.last_s),
        )
    return table


def _scenes(status: Status) -> Table:
    table = Table("scene", "opens", "from", "to", "chunks", "prompt", box=None, pad_edge=False)
    # In a film of many scenes, only those around the one that is being rendered are shown.
    unfinished = [i for i, scene in enumerate(status.scenes) if scene.chunks[0] + scene.published < scene.chunks[1]]
    current = unfinished[0] if unfinished else len(status.scenes)
    first = max(0, min(current - _SCENES_SHOWN // 2, len(status.scenes) - _SCENES_SHOWN))
    for index, scene in list(enumerate(status.scenes))[first : first + _SCENES_SHOWN]:
        table.add_row(
            str(index),
            "cut" if scene.cut else "continue",
            _clock(scene.start_s),
            _clock(scene.stop_s),
            f"{scene.published}/{scene.chunks[1] - scene.chunks[0]}",
            Text(scene.prompt, overflow="ellipsis", no_wrap=True),
        )
    if len(status.scenes) > _SCENES_SHOWN:
        table.caption = f"{_SCENES_SHOWN} of {len(status.scenes)} scenes"
    return table


def _work(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{1000 * seconds:.0f} ms" if seconds < 0.995 else f"{seconds:.2f} s"


def _clock(seconds: float) -> str:
    tenths = round(10 * seconds)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest / 10:04.1f}" if hours else f"{minutes}:{rest / 10:04.1f}"
