"""Open weights' architectures on the whole road: a folder in diffusers' format, a minute of film by two ranks on Ray.

The weights are tiny and random, so pictures are noise; counts, memory and what a killed driver costs are real.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import sleep

import psutil
import torch

from longtake.jobs.bench import Bench, BenchOptions, Figure
from longtake.jobs.bench.resume import same_takes
from longtake.pipeline.adapters.open import open_model
from longtake.pipeline.journal.store import Store
from longtake.pipeline.parallel.degrees import Degrees
from longtake.pipeline.plan import plan_film
from longtake.pipeline.provenance import numerics
from longtake.pipeline.spec import load_storyboard
from longtake.pipeline.take import Take, open_take
from longtake.pipeline.testing import diffusers_folder as fake
from longtake.pipeline.testing import ltx2 as ltx2_fake
from longtake.pipeline.testing import wan as wan_fake

RANKS = Degrees(ulysses=2)
SECONDS = 60
LOOK_S = 0.25
"""Between two looks at the ranks' memory."""

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
QUICK_FAMILIES = {"ltx2": tiny_ltx2}
"""A shorter film would hardly take less time, and would end before the memory of its ranks is level."""


def measure(options: BenchOptions) -> Mapping[str, float]:
    """For each family a film that nobody disturbs, and one whose driver is killed in the middle."""
    torch.set_num_threads(1)
    families = QUICK_FAMILIES if options.quick else FAMILIES
    differ = wrong = killed = 0
    growth = []
    for name, save in families.items():
        with TemporaryDirectory(prefix="longtake-open-weights-") as folder:
            root = Path(folder)
            storyboard = STORYBOARD.format(model=save(root / name), first=SECONDS // 2, second=SECONDS // 2)
            (root / "film.yaml").write_text(storyboard)
            growth.append(_render(root, "whole"))
            killed += _kill_in_the_middle(root, "killed")
            _render(root, "killed")
            whole, again = (_take(root, out) for out in ("whole", "killed"))
            plan, clock = whole.plan, whole.plan.clock
            wrong += plan.num_frames != SECONDS * clock.fps or plan.num_samples != SECONDS * clock.sample_rate
            wrong += _counts(root / "whole/film.mp4") != (plan.num_frames, Fraction(SECONDS))
            differ += not same_takes(whole, again)
    return {
        "families": len(families),
        "kills": killed,
        "films_that_differ": differ,
        "wrong_counts": wrong,
        "memory_growth": max(growth),
    }


def _command(root: Path, out: str) -> list[str]:
    ranks = ["--ranks", str(RANKS.ranks), "--ulysses", str(RANKS.ulysses)]
    return [sys.executable, "-m", "longtake.jobs.render", str(root / "film.yaml"), "-o", str(root / out), *ranks]


def _render(root: Path, out: str) -> float:
    """Render, or go on, and tell by how much the ranks grew from the second to the last quarter of the time."""
    driver = subprocess.Popen(_command(root, out), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    resident = []
    while driver.poll() is None:
        resident.append(_resident(driver.pid))
        sleep(LOOK_S)
    if driver.returncode:
        assert driver.stderr is not None, "asked for above"
        raise subprocess.CalledProcessError(driver.returncode, "longtake.jobs.render", stderr=driver.stderr.read())
    full = [size for size in resident if size > 0.9 * max(resident)]  # none that is starting or ending
    quarter = len(full) // 4
    return median(full[-quarter:]) / median(full[quarter : 2 * quarter]) - 1 if quarter else 0.0


def _resident(driver: int) -> int:
    """Bytes of all ranks of a driver's cluster."""
    total = 0
    try:
        for process in psutil.Process(driver).children(recursive=True):
            if "Rank" in process.name():
                total += process.memory_info().rss
    except psutil.Error:
        return total  # somebody has just ended
    return total


def _kill_in_the_middle(root: Path, out: str) -> bool:
    """Start a render and kill its driver once half of the latents are kept; False if the film was done before."""
    chunks = len(_take(root, out).plan.chunks)
    driver = subprocess.Popen(_command(root, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while driver.poll() is None and len(list((root / out / "journal/latents").glob("*.json"))) < chunks // 2:
        sleep(0.02)
    if driver.poll() is None:
        os.kill(driver.pid, signal.SIGKILL)
    return driver.wait() == -signal.SIGKILL


def _take(root: Path, out: str) -> Take:
    storyboard = load_storyboard(str(root / "film.yaml"))
    model = open_model(storyboard.model)
    return open_take(plan_film(storyboard, model), model, Store(str(root / out)), numerics(model, RANKS))


def _counts(film: Path) -> tuple[int, Fraction]:
    """Frames of a film, and the length of its sound in seconds."""
    import av

    with av.open(str(film)) as container:
        sound = container.streams.audio[0]
        assert sound.duration, "MP4 tells it"
        return sum(1 for _ in container.decode(video=0)), sound.duration * Fraction(sound.time_base or 0)


BENCH = Bench(
    {
        "families": Figure("families of open weights, each tiny and random, causal, rendered by two ranks on Ray"),
        "kills": Figure("drivers killed with SIGKILL when half of the film was denoised"),
        "films_that_differ": Figure("films whose latents, packets, sound or file then differ in a bit", at_most=0),
        "wrong_counts": Figure("films with too many or too few frames or samples", at_most=0),
        "memory_growth": Figure(
            "resident bytes of the ranks at the end over those after a quarter, minus 1", at_most=0.02
        ),
    },
    measure,
    once=True,
)
