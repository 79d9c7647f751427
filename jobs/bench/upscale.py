"""Upscaling: the same bits from any number of workers, the gain of a second worker, memory over a long film, quality.

Every round measures one process without Ray, two workers on one film, and two independent processes with a film each,
which give the ceiling that the machine sets.
"""

import gc
import os
import signal
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import av
import numpy as np
import psutil
import ray
import torch
from ray.actor import ActorHandle
from typing_extensions import override

from longtake.actors.cluster import joined
from longtake.actors.handles import runtime_env
from longtake.actors.policy import RetryPolicy
from longtake.actors.upscale_actor import WorkerConfig
from longtake.actors.upscale_film import WorkerSetup, upscale as on_ray
from longtake.actors.upscale_pool import UpscalePool, UpscalePoolConfig
from longtake.jobs.bench.figures import BenchOptions
from longtake.jobs.bench.upscale_quality import CLIPS, compare, quality_figures
from longtake.pipeline import upscale_film as alone
from longtake.pipeline.footage.index import open_footage
from longtake.pipeline.footage.values import Footage
from longtake.pipeline.models.streaming_upscaler import grid_of
from longtake.pipeline.observe import SILENT, Observer
from longtake.pipeline.upscaling.output import Output
from longtake.pipeline.upscaling.plan import Handoff, UpscaleSpec
from longtake.pipeline.upscaling.work import numerics
from longtake.pipeline.weights.load import load_upscaler

FAST, SHIPPED = "tiny-upscaler", "upscaler"
RATE = 25
MOST_WORKERS = 5
SMOKE_CLIP = replace(CLIPS[-1], count=2)


def measure(options: BenchOptions) -> Mapping[str, float]:
    """In one cluster, with one thread for each worker."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        growth = memory_growth(Path(folder), options)
        with joined(None, MOST_WORKERS):
            identical = workers_identical(Path(folder), options)
            pace = _pace(Path(folder), options)
    model = load_upscaler(SHIPPED)
    clips = options.pick(full=CLIPS, quick=CLIPS[-1:], smoke=(SMOKE_CLIP,))
    quality = quality_figures(row for clip in clips for row in compare(model, clip))
    return {"workers_identical": float(identical), **pace, "memory_growth": growth, **quality}


# ------------------------------------------------------------------ the same bits


def workers_identical(folder: Path, options: BenchOptions) -> bool:
    """Whether 1, 2 and 5 workers, one of which is killed, and a handoff write the same packets as one process."""
    frames = options.pick(full=150, quick=150, smoke=24)
    counts = options.pick(full=(1, 2, MOST_WORKERS), quick=(1, 2, MOST_WORKERS), smoke=(2,))
    footage = open_footage(_film(folder / "same.mp4", frames, (64, 48), options.seed, scenes=2))
    spec = UpscaleSpec(segment_frames=options.pick(full=16, quick=16, smoke=8))
    model = load_upscaler(FAST)
    alone.upscale(footage, spec, model, Output(str(folder / "same-alone.mp4")))
    alone.upscale(footage, replace(spec, continuity=Handoff()), model, Output(str(folder / "same-handoff.mp4")))
    config = WorkerConfig(FAST)
    with UpscalePool(UpscalePoolConfig(max(counts), config, retries=RetryPolicy(back_off_s=0.1))) as workers:
        for count in counts:
            setup = WorkerSetup(nullcontext(workers), config, numerics(model), grid_of(model), count)
            on_ray(footage, spec, setup, Output(str(folder / f"same-{count}.mp4")), _Killer(active=count == 2))
    packets = {_packets(path) for path in folder.glob("same-*.mp4")}
    return len(packets) == 1


class _Killer(Observer):
    """An observer that kills the worker of the second segment, once, if it is `active`."""

    def __init__(self, active: bool) -> None:
        self._active, self._finished = active, 0
        self._pids: dict[int, int] = {}

    @override
    def event(self, name: str, **fields: Any) -> None:
        if name == "actor.ready":
            self._pids[fields["worker"]] = fields["pid"]
        if name == "upscale.segment":
            self._finished += 1
            if self._finished == 2 and self._active:
                os.kill(self._pids[fields["worker"]], signal.SIGKILL)


def _packets(path: Path) -> str:
    digest = sha256()
    with av.open(str(path)) as film:
        for packet in film.demux():
            if packet.size:
                digest.update(bytes(packet) + repr((packet.stream_index, packet.pts, packet.duration)).encode())
    return digest.hexdigest()


# ------------------------------------------------------------------ the gain of a second worker


class _Alone:
    """An independent process that upscales alone."""

    def open(self, model: str) -> None:
        torch.set_num_threads(1)
        self._model = load_upscaler(model)

    def upscale(self, footage: Footage, spec: UpscaleSpec, output: str) -> None:
        alone.upscale(footage, spec, self._model, Output(output))


def _pace(folder: Path, options: BenchOptions) -> dict[str, float]:
    frames, rounds = options.pick(full=512, quick=256, smoke=16), options.pick(full=5, quick=3, smoke=1)
    footage = open_footage(_film(folder / "pace.mp4", frames, (96, 72), options.seed))
    spec = UpscaleSpec(segment_frames=options.pick(full=32, quick=32, smoke=8))
    model, config = load_upscaler(SHIPPED), WorkerConfig(SHIPPED)
    single: Any = ray.remote(num_cpus=1, runtime_env=runtime_env({"OMP_NUM_THREADS": "1"}))(_Alone)
    processes: list[ActorHandle[Any]] = [single.remote() for _ in range(2)]
    ray.get([process.open.remote(SHIPPED) for process in processes])
    speedups, ceilings = [], []
    with UpscalePool(UpscalePoolConfig(2, config)) as workers:
        setup = WorkerSetup(nullcontext(workers), config, numerics(model), grid_of(model))

        def together(name: str) -> float:
            started = perf_counter()
            on_ray(footage, spec, setup, Output(str(folder / name)), SILENT)
            return perf_counter() - started

        if options.size != "smoke":
            together("warm.mp4")
        for number in range(rounds):
            solo_s = _apart(processes[:1], footage, spec, folder, number)
            speedups.append(solo_s / together(f"two-{number}.mp4"))
            ceilings.append(2 * solo_s / _apart(processes, footage, spec, folder, number))
    for process in processes:
        ray.kill(process)
    efficiency = median(speedup / ceiling for speedup, ceiling in zip(speedups, ceilings, strict=True))
    return {"speedup_2": median(speedups), "ceiling_2": median(ceilings), "efficiency_2": efficiency}


def _apart(processes: list[ActorHandle[Any]], footage: Footage, spec: UpscaleSpec, folder: Path, number: int) -> float:
    """Seconds until each of `processes` has upscaled the whole film."""
    outputs = [str(folder / f"apart-{number}-{len(processes)}-{at}.mp4") for at in range(len(processes))]
    started = perf_counter()
    ray.get([one.upscale.remote(footage, spec, output) for one, output in zip(processes, outputs, strict=True)])
    return perf_counter() - started


# ------------------------------------------------------------------ memory


class _Resident(Observer):
    """Resident bytes of this process after each segment, by the number of finished frames."""

    def __init__(self) -> None:
        self.bytes: dict[int, int] = {}
        self._frames, self._process = 0, psutil.Process()

    @override
    def event(self, name: str, **fields: Any) -> None:
        if name == "upscale.segment":
            gc.collect()
            self._frames += fields["frames"]
            self.bytes[self._frames] = self._process.memory_info().rss


def memory_growth(folder: Path, options: BenchOptions) -> float:
    """Resident bytes at the end of a long film over those after its first frames, minus 1."""
    frames, warm_frames = options.pick(full=5000, quick=1500, smoke=20), options.pick(full=500, quick=500, smoke=10)
    footage = open_footage(_film(folder / "long.mp4", frames, (32, 24), options.seed))
    resident = _Resident()
    spec = UpscaleSpec(segment_frames=options.pick(full=50, quick=50, smoke=10), scene_threshold=0)
    alone.upscale(footage, spec, load_upscaler(FAST), Output(str(folder / "long-out.mp4")), resident)
    warm = next(num_bytes for done, num_bytes in resident.bytes.items() if done >= warm_frames)
    return resident.bytes[max(resident.bytes)] / warm - 1


# ------------------------------------------------------------------ footage


def _film(path: Path, frames: int, size: tuple[int, int], seed: int, scenes: int = 1) -> str:
    """Write a film of moving textures with sound. Returns its path."""
    width, height = size
    rng = np.random.default_rng(seed)
    textures = [rng.integers(0, 255, (height // 4, width // 2, 3), dtype=np.uint8) for _ in range(scenes)]
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=RATE, options={"qp": "20", "g": "50"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        audio = out.add_stream("aac", rate=16_000, layout="mono")
        for number in range(frames):
            scene = number * scenes // frames
            large = textures[scene].repeat(4, 0).repeat(4, 1) // (1 + scene)
            start = abs(number % (2 * width) - width)
            picture = np.ascontiguousarray(large[:height, start : start + width])
            out.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(video.encode(None))
        wave = np.sin(np.arange(1024) / 9, dtype=np.float32)[None] / 2
        for start in range(0, frames * 16_000 // RATE, 1024):
            sound = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            sound.sample_rate, sound.pts = 16_000, start
            out.mux(audio.encode(sound))
        out.mux(audio.encode(None))
    return str(path)
