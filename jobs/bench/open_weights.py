"""The architectures of open weights in the whole pipeline: a minute of film by two ranks on Ray, from a folder in
diffusers' format.

The weights are tiny and random, so the pictures are noise. Counts, memory and resuming after a kill are real.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import sleep

import psutil
import torch

from longtake.jobs.bench.figures import BenchOptions
from longtake.jobs.bench.resume import same_takes
from longtake.pipeline.adapters.open import open_model
from longtake.pipeline.film import render
from longtake.pipeline.journal.store import Store
from longtake.pipeline.parallel.degrees import Degrees
from longtake.pipeline.plan import plan_film
from longtake.pipeline.provenance import numerics
from longtake.pipeline.spec import load_storyboard
from longtake.pipeline.take import Take, open_take
from longtake.pipeline.testing import diffusers_folder as fake, ltx2 as ltx2_fake, wan as wan_fake

SAMPLE_S = 0.25
"""Time between two samples of the ranks' memory."""

STORYBOARD = """
model: {model}
video: {{width: 48, height: 32}}
sampling: {{steps: 2, guidance: 2}}
scenes:
  - {{prompt: a red circle, duration: {first}s}}
  - {{prompt: a blue circle, duration: {second}s}}
"""


def tiny_wan(folder: Path) -> Path:
    """A causal Wan."""
    return fake.save(wan_fake.tiny_pipeline("2.1"), folder, chunk_latents=3, window=2, sink=1)


def tiny_ltx2(folder: Path) -> Path:
    """A causal LTX-2."""
    return ltx2_fake.save(folder, chunk_latents=2, window=2, sink=1)


FAMILIES: Mapping[str, Callable[[Path], Path]] = {"wan": tiny_wan, "ltx2": tiny_ltx2}


@dataclass(frozen=True)
class Film:
    """A film to render.

    Args:
        root: the folder of the weights, the storyboard and the outputs.
        seconds: its length, an even number.
        degrees: how ranks share it; one rank renders without Ray.
    """

    root: Path
    seconds: int
    degrees: Degrees

    def command(self, out: str) -> list[str]:
        """The command that renders it into the folder `out`."""
        ranks = ["--ranks", str(self.degrees.ranks), "--ulysses", str(self.degrees.ulysses)]
        how = ranks if self.degrees.ranks > 1 else ["--in-process"]
        storyboard, output = str(self.root / "film.yaml"), str(self.root / out)
        return [sys.executable, "-m", "longtake.jobs.render", storyboard, "-o", output, *how]

    def take(self, out: str) -> Take:
        """What was rendered into the folder `out`."""
        storyboard = load_storyboard(str(self.root / "film.yaml"))
        model = open_model(storyboard.model)
        return open_take(
            plan_film(storyboard, model), model, Store(str(self.root / out)), numerics(model, self.degrees)
        )


def measure(options: BenchOptions) -> Mapping[str, float]:
    """For each family, render one film undisturbed, and one whose driver is killed in the middle and started again.

    A quick run has fewer families and no shorter films: those would take nearly as long, and end before the memory of
    the ranks is level. A smoke run has one rank and no Ray, and only the driver that it kills is another process.
    """
    torch.set_num_threads(1)
    families: list[str] = options.pick(full=["wan", "ltx2"], quick=["ltx2"], smoke=["wan"])
    seconds, degrees = options.pick(full=60, quick=60, smoke=4), Degrees(ulysses=options.pick(full=2, quick=2, smoke=1))
    differ = wrong = killed = 0
    growth = []
    for name in families:
        with TemporaryDirectory(prefix="longtake-open-weights-") as folder:
            film = Film(Path(folder), seconds, degrees)
            half, weights = seconds // 2, FAMILIES[name](film.root / name)
            (film.root / "film.yaml").write_text(STORYBOARD.format(model=weights, first=half, second=half))
            growth.append(_render(film, "whole"))
            killed += _kill_in_the_middle(film, "killed")
            _render(film, "killed")
            whole = film.take("whole")
            plan, clock = whole.plan, whole.plan.clock
            wrong += plan.num_frames != seconds * clock.fps or plan.num_samples != seconds * clock.sample_rate
            wrong += _counts(film.root / "whole/film.mp4") != (plan.num_frames, Fraction(seconds))
            differ += not same_takes(whole, film.take("killed"))
    return {
        "families": len(families),
        "kills": killed,
        "films_that_differ": differ,
        "wrong_counts": wrong,
        "memory_growth": max(growth),
    }


def _render(film: Film, out: str) -> float:
    """Render or resume. Returns by how much the ranks' memory grew from the second to the last quarter of the time.

    Without Ray there are no ranks; the film is rendered by this process, which has imported diffusers already.
    """
    if film.degrees.ranks == 1:
        render(film.take(out))
        return 0.0
    resident, log = [], film.root / f"{out}.log"
    with log.open("w") as stderr:
        driver = subprocess.Popen(film.command(out), stdout=subprocess.DEVNULL, stderr=stderr)
        while driver.poll() is None:
            resident.append(_resident(driver.pid))
            sleep(SAMPLE_S)
    if driver.returncode:
        raise RuntimeError(f"the driver of {out} exited with {driver.returncode}: {log.read_text()[-2000:]}")
    full = [size for size in resident if size > 0.9 * max(resident)]  # while no rank is starting or exiting
    quarter = len(full) // 4
    return median(full[-quarter:]) / median(full[quarter : 2 * quarter]) - 1 if quarter else 0.0


def _resident(driver: int) -> int:
    """Resident bytes of all ranks of a driver's cluster."""
    total = 0
    try:
        for process in psutil.Process(driver).children(recursive=True):
            if "Rank" in process.name():
                total += process.memory_info().rss
    except psutil.Error:
        return total  # a process has just exited
    return total


def _kill_in_the_middle(film: Film, out: str) -> bool:
    """Start a render and kill its driver once half of the latents are stored; False if the film was done first."""
    chunks, latents = len(film.take(out).plan.chunks), film.root / out / "journal/latents"
    driver = subprocess.Popen(film.command(out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while driver.poll() is None and len(list(latents.glob("*.json"))) < chunks // 2:
        sleep(0.02)
    if driver.poll() is None:
        os.kill(driver.pid, signal.SIGKILL)
    return driver.wait() == -signal.SIGKILL


def _counts(film: Path) -> tuple[int, Fraction]:
    """Frames of a film, and the length of its sound in seconds."""
    import av

    with av.open(str(film)) as container:
        sound = container.streams.audio[0]
        assert sound.duration, "MP4 stores it"
        return sum(1 for _ in container.decode(video=0)), sound.duration * Fraction(sound.time_base or 0)
