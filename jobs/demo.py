"""`longtake demo`: a film from its storyboard to its report, and what a crash in the middle costs.

The render is a process of its own, the ordinary `longtake render`, so that `--chaos` can kill it as a crash would.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from html import escape
from pathlib import Path
from time import monotonic, sleep
from typing import Annotated

import typer

from longtake.jobs.feedback import Feedback
from longtake.jobs.interrupt import Interrupted, killed_with_this, resumable
from longtake.jobs.options import Json, ProgressMode
from longtake.pipeline.errors import JournalError, SpecError

FILM, PAGE, SHEET = "film.mp4", "report.html", "contact.png"
_LOOK_S = 0.1


def command(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="The folder to write to.")] = Path(
        "out/demo"
    ),
    chaos: Annotated[
        bool,
        typer.Option(
            "--chaos", help="Kill the render in the middle, resume it, and compare the film with an undisturbed one."
        ),
    ] = False,
    no_open: Annotated[bool, typer.Option("--no-open", help="Show no live page.")] = False,
    storyboard: Annotated[Path | None, typer.Option(metavar="STORYBOARD", help="Another film than the demo's.")] = None,
    progress: ProgressMode = "auto",
    json: Json = False,
) -> None:
    """Render a film of half a minute, show it while it grows, and measure it: a minute or two on two cores.

    OUT then holds film.mp4, contact.png, and report.html with the film, its figures and the times that it took. With
    --chaos, the render is killed when half of the film is published.
    """
    from importlib.resources import as_file, files

    with resumable("finished chunks"), as_file(files("longtake.jobs") / "demo.yaml") as built_in:
        _Demo(storyboard or built_in, output, Feedback(progress, json)).run(chaos=chaos, show=not no_open)


class _Demo:
    """One run of the demo, and the seconds that its parts took."""

    def __init__(self, storyboard: Path, output: Path, feedback: Feedback) -> None:
        self._storyboard, self._output, self._feedback = storyboard, output, feedback
        self._notes = sys.stderr if self._feedback.as_json else None
        self._seconds: dict[str, float] = {}

    def run(self, *, chaos: bool, show: bool) -> None:
        """Render and measure; with `chaos`, also prove that the killed render is the undisturbed one, bit for bit."""
        undisturbed = self._output / "undisturbed"
        if chaos and (self._output / "journal").exists():
            raise SpecError(f"{self._output} holds a render already; for --chaos, remove it or use another -o")
        with self._live_page() if show else nullcontext():
            if chaos:
                killed = self._render("render until it is killed", self._output, until=0.5)
                self._say(f"Killed the render (SIGKILL) with {killed} chunks published; the same command resumes it.")
            self._render("resumed render" if chaos else "render", self._output)
        if chaos:
            self._render("undisturbed render", undisturbed)
            if bits_of(self._output) != bits_of(undisturbed):
                raise JournalError(f"{self._output} and {undisturbed} differ; please report this")
            self._say("The killed and resumed film equals the undisturbed one, bit for bit.")
        page, sheet = self._output / PAGE, self._output / SHEET
        self._call("measurement", "inspect", self._output, "--html", page, "--sheet", sheet)
        page.write_text(with_timings(page.read_text("utf-8"), self._seconds), encoding="utf-8")
        self._feedback.result(
            f"{page}: the film, its figures and the times",
            film=str(self._output / FILM),
            page=str(page),
            sheet=str(sheet),
            same_bits=True if chaos else None,
            seconds={name: round(seconds, 2) for name, seconds in self._seconds.items()},
        )

    def _render(self, name: str, output: Path, until: float | None = None) -> int:
        """Render into `output`; returns the number of published chunks once that share of them is, or at the end."""
        from longtake.pipeline.inspect.status import read_status
        from longtake.pipeline.journal.store import Store

        def published(share: float) -> int:
            try:
                status = read_status(Store(str(output)))
            except SpecError:  # it has not begun
                return 0
            return status.published if status.published >= share * status.chunks else 0

        arguments = ("render", self._storyboard, "-o", output, "--in-process", "--progress", self._feedback.progress)
        return self._call(name, *arguments, stop=None if until is None else lambda: published(until))

    def _call(self, name: str, *arguments: str | Path, stop: Callable[[], int] | None = None) -> int:
        """Run a command; it is killed as soon as `stop` returns a number above 0, which is returned."""
        started, stopped = monotonic(), 0
        child = subprocess.Popen(
            [sys.executable, "-m", "longtake.jobs", *map(str, arguments)],
            stdout=self._notes,
            start_new_session=True,  # signals reach it from here, once
        )
        with killed_with_this(child):
            try:
                while child.poll() is None and not stopped:
                    sleep(_LOOK_S)
                    stopped = stop() if stop is not None else 0
            except Interrupted as error:
                child.send_signal(error.number)
                if child.wait() == error.exit_code:  # it has said what is kept
                    raise typer.Exit(error.exit_code) from None
                raise
        if child.returncode and not stopped:
            raise typer.Exit(child.returncode)
        self._seconds[name] = monotonic() - started
        return stopped

    @contextmanager
    def _live_page(self) -> Iterator[None]:
        """Run `longtake watch`, which opens a browser where there is a screen."""
        self._output.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "longtake.jobs", "watch", str(self._output)]
        page = subprocess.Popen(command, stdout=self._notes, start_new_session=True)
        with killed_with_this(page):
            yield

    def _say(self, text: str) -> None:
        self._feedback.console.print(text)


def bits_of(output: Path) -> tuple[str, frozenset[str]]:
    """A film's SHA-256, and the names of its live segments, which hold their checksums."""
    import hashlib

    names = frozenset(path.name for path in (output / "live").iterdir() if path.suffix != ".m3u8")
    return hashlib.sha256((output / FILM).read_bytes()).hexdigest(), names


def with_timings(page: str, seconds: dict[str, float]) -> str:
    """The report with a section on how long its parts took."""
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{value:.1f} s</td></tr>" for name, value in seconds.items())
    section = f"<h2>Times</h2><p>Of the demo's parts, starts of processes included.</p><table>{rows}</table>"
    before, end, after = page.rpartition("</main>" if "</main>" in page else "</body>")
    return f"{before}{section}{end}{after}"
