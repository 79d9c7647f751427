"""Resume: kill the driver of a Ray render with SIGKILL at seeded moments, run it again, compare every bit."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from time import perf_counter, sleep

import torch

from longtake.jobs.bench.figures import BenchOptions
from longtake.pipeline import film
from longtake.pipeline.adapters.open import open_model
from longtake.pipeline.journal.journal import latents_to_bytes, segment_to_bytes
from longtake.pipeline.journal.store import Store
from longtake.pipeline.plan import plan_film
from longtake.pipeline.provenance import numerics
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.take import Take, open_take

STORYBOARD = """
model: tiny
sampling: {{steps: 12}}
scenes:
  - {{prompt: a red circle bounces fast, duration: {first}s}}
  - {{prompt: a blue square rests, duration: {second}s}}
  - {{prompt: a green triangle glides, duration: 4.5s, transition: cut}}
"""


def measure(options: BenchOptions) -> Mapping[str, float]:
    """Kill several renders, each once, between its first and its last chunk; the last one while it is publishing.

    A smoke run renders in the driver's own process, since actors take seconds to start.
    """
    torch.set_num_threads(1)
    random = Random(options.seed)
    kills = options.pick(full=5, quick=2, smoke=1)
    flags: list[str] = options.pick(full=[], quick=[], smoke=["--in-process"])
    first_s, second_s = options.pick(full=(12, 8), quick=(12, 8), smoke=(2, 1))
    storyboard = STORYBOARD.format(first=first_s, second=second_s)
    with TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "film.yaml").write_text(storyboard)
        undisturbed = _take(storyboard, root / "undisturbed")
        film.render(undisturbed)
        differ = twice = struck = 0
        for kill in range(kills):
            out = root / f"killed-{kill}"
            command = _command(root, out, flags)
            act = "publish" if kill == kills - 1 else random.choice(["denoise", "decode", "encode", "publish"])
            struck += _kill_after(command, out, act, chunk=random.randrange(1, len(undisturbed.plan.chunks) - 2))
            before = _finished(out)
            subprocess.run(command, check=True, capture_output=True)
            after = _finished(out)
            twice += sum(after.count(done) - 1 for done in set(before))
            differ += not same_takes(undisturbed, _take(storyboard, out))
        again_s = min(_seconds(command) for _ in range(options.pick(full=3, quick=3, smoke=1)))
    return {
        "kills": float(struck),
        "films_that_differ": float(differ),
        "chunks_done_twice": float(twice),
        "finished_again_s": again_s,
    }


def _seconds(command: list[str]) -> float:
    started = perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return perf_counter() - started


def _take(text: str, out: Path) -> Take:
    storyboard = parse_storyboard(text)
    model = open_model(storyboard.model)
    return open_take(plan_film(storyboard, model), model, Store(str(out)), numerics(model))


def _command(root: Path, out: Path, flags: list[str]) -> list[str]:
    render = [sys.executable, "-m", "longtake.jobs.render", str(root / "film.yaml"), "-o", str(out)]
    return [*render, "--budget-mib", "1", *flags]


def _kill_after(command: list[str], out: Path, act: str, chunk: int) -> bool:
    """Start a render and kill its driver once stage `act` has finished `chunk`; False if the film was done first."""
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while driver.poll() is None and not any(e == (f"{act}.chunk", chunk) for e in _events(out)):
        sleep(0.02)
    if driver.poll() is None:
        os.kill(driver.pid, signal.SIGKILL)
    return driver.wait() == -signal.SIGKILL


def _events(out: Path) -> list[tuple[str, int]]:
    if not (out / "events.jsonl").exists():
        return []
    events = []
    for line in (out / "events.jsonl").read_text().splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue  # cut off by the kill
        events.append((event["event"], event.get("chunk", -1)))
    return events


def _finished(out: Path) -> list[tuple[str, int]]:
    return [event for event in _events(out) if event[0] in ("denoise.chunk", "encode.chunk")]


def same_takes(one: Take, other: Take) -> bool:
    """Whether two takes are complete and equal bit for bit: latents, segments and film."""
    for chunk in one.plan.chunks:
        latents, same_latents = one.journal.latents(chunk), other.journal.latents(chunk)
        segment, same_segment = one.journal.segment(chunk), other.journal.segment(chunk)
        if latents is None or same_latents is None or segment is None or same_segment is None:
            return False
        if latents_to_bytes(latents) != latents_to_bytes(same_latents):
            return False
        if segment_to_bytes(segment) != segment_to_bytes(same_segment):
            return False
    return one.store.get("film.mp4") == other.store.get("film.mp4")
