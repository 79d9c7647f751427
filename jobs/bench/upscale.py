"""Upscaling: the same bits whoever makes them, what a second worker gains, memory over a long film, and quality.

Two workers are measured in rounds against one process without Ray: that process alone; two such processes, knowing
nothing of each other, each with a whole film, which is the ceiling that the machine sets; two workers on one film.
"""

import gc
import os
import signal
from collections.abc import Mapping
from contextlib import nullcontext
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

from longtake.actors.cluster import joined
from longtake.actors.pool_config import Timeouts
from longtake.actors.upscale_actor import WorkerConfig
from longtake.actors.upscale_film import WorkerSetup
from longtake.actors.upscale_film import upscale as on_ray
from longtake.actors.upscale_pool import UpscalePool, UpscalePoolConfig
from longtake.jobs.bench import Bench, BenchOptions, Figure
from longtake.jobs.bench.upscale_quality import CLIPS, compare, quality_figures
from longtake.pipeline import upscale_film as alone
from longtake.pipeline.footage.index import open_footage
from longtake.pipeline.footage.values import Footage
from longtake.pipeline.observe import SILENT, Observer
from longtake.pipeline.upscaling.output import Output
from longtake.pipeline.upscaling.plan import Exact, Handoff, UpscaleSpec
from longtake.pipeline.weights.load import load_upscaler

FAST, SHIPPED = "tiny-upscaler", "upscaler"
RATE = 25
SAME_FRAMES, SAME_SEGMENT = 150, 16
PACE_FRAMES, QUICK_PACE_FRAMES, PACE_SEGMENT = 512, 256, 32
ROUNDS, QUICK_ROUNDS = 5, 3
LONG_FRAMES, QUICK_LONG_FRAMES, WARM_FRAMES = 5000, 1500, 500
MOST_WORKERS = 5


def measure(options: BenchOptions) -> Mapping[str, float]:
    """One cluster of our own; one thread for every worker."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        growth = memory_growth(Path(folder), options)
        with joined(None, MOST_WORKERS):
            identical = workers_identical(Path(folder), options)
            pace = _pace(Path(folder), options)
    model = load_upscaler(SHIPPED)
    clips = CLIPS[-1:] if options.quick else CLIPS
    quality = quality_figures(row for clip in clips for row in compare(model, clip))
    return {"workers_identical": float(identical), **pace, "memory_growth": growth, **quality}


# ------------------------------------------------------------------ the same bits


def workers_identical(folder: Path, options: BenchOptions) -> bool:
    """Whether 1, 2 and 5 workers, one of whom is killed, and a handoff write the packets of one process."""
    footage = open_footage(_film(folder / "same.mp4", SAME_FRAMES, (64, 48), options.seed, scenes=2))
    spec = UpscaleSpec(segment_frames=SAME_SEGMENT)
    model = load_upscaler(FAST)
    alone.upscale(footage, spec, model, Output(str(folder / "same-alone.mp4")))
    alone.upscale(footage, _like(spec, Handoff()), model, Output(str(folder / "same-handoff.mp4")))
    tools = WorkerConfig(FAST)
    with UpscalePool(UpscalePoolConfig(MOST_WORKERS, tools, timeouts=Timeouts(back_off=0.1))) as workers:
        for count in (1, 2, MOST_WORKERS):
            shop = WorkerSetup(nullcontext(workers), tools, alone.numerics(model), alone.grid_of(model), count)
            on_ray(footage, spec, shop, Output(str(folder / f"same-{count}.mp4")), _Killer(dead=count != 2))
    packets = {_packets(path) for path in folder.glob("same-*.mp4")}
    return len(packets) == 1


def _like(spec: UpscaleSpec, continuity: Exact | Handoff) -> UpscaleSpec:
    return UpscaleSpec(**{**vars(spec), "continuity": continuity})


class _Killer:
    """An observer that kills a worker behind the second segment, once; none if one is `dead` already."""

    def __init__(self, dead: bool) -> None:
        self._dead, self._pids, self._made = dead, {}, 0

    def event(self, name: str, **fields: Any) -> None:
        if name == "actor.ready":
            self._pids[fields["worker"]] = fields["pid"]
        if name == "upscale.segment":
            self._made += 1
            if self._made == 2 and not self._dead:
                self._dead = True
                os.kill(self._pids[fields["worker"]], signal.SIGKILL)


def _packets(path: Path) -> str:
    digest = sha256()
    with av.open(str(path)) as film:
        for packet in film.demux():
            if packet.size:
                digest.update(bytes(packet) + repr((packet.stream_index, packet.pts, packet.duration)).encode())
    return digest.hexdigest()


# ------------------------------------------------------------------ what a second worker gains


@ray.remote
class _Alone:
    """The road in one process, which knows of no other."""

    def open(self, model: str) -> None:
        torch.set_num_threads(1)
        self._model = load_upscaler(model)

    def upscale(self, footage: Footage, spec: UpscaleSpec, output: str) -> None:
        alone.upscale(footage, spec, self._model, Output(output))


def _pace(folder: Path, options: BenchOptions) -> dict[str, float]:
    frames = QUICK_PACE_FRAMES if options.quick else PACE_FRAMES
    footage = open_footage(_film(folder / "pace.mp4", frames, (96, 72), options.seed))
    spec, model, tools = UpscaleSpec(segment_frames=PACE_SEGMENT), load_upscaler(SHIPPED), WorkerConfig(SHIPPED)
    one_thread = {"env_vars": {"OMP_NUM_THREADS": "1"}}
    processes = [_Alone.options(num_cpus=1, runtime_env=one_thread).remote() for _ in range(2)]
    ray.get([process.open.remote(SHIPPED) for process in processes])
    speedups, ceilings = [], []
    with UpscalePool(UpscalePoolConfig(2, tools)) as workers:
        shop = WorkerSetup(nullcontext(workers), tools, alone.numerics(model), alone.grid_of(model))

        def together(name: str) -> float:
            started = perf_counter()
            on_ray(footage, spec, shop, Output(str(folder / name)), SILENT)
            return perf_counter() - started

        together("warm.mp4")
        for number in range(QUICK_ROUNDS if options.quick else ROUNDS):
            solo_s = _apart(processes[:1], footage, spec, folder, number)
            speedups.append(solo_s / together(f"two-{number}.mp4"))
            ceilings.append(2 * solo_s / _apart(processes, footage, spec, folder, number))
    for process in processes:
        ray.kill(process)
    efficiency = median(speedup / ceiling for speedup, ceiling in zip(speedups, ceilings, strict=True))
    return {"speedup_2": median(speedups), "ceiling_2": median(ceilings), "efficiency_2": efficiency}


def _apart(processes: list[ActorHandle], footage: Footage, spec: UpscaleSpec, folder: Path, number: int) -> float:
    """Seconds until each of `processes` has upscaled the whole film."""
    outputs = [str(folder / f"apart-{number}-{len(processes)}-{at}.mp4") for at in range(len(processes))]
    started = perf_counter()
    ray.get([one.upscale.remote(footage, spec, output) for one, output in zip(processes, outputs, strict=True)])
    return perf_counter() - started


# ------------------------------------------------------------------ memory


class _Resident(Observer):
    """Resident bytes of this process behind every segment, by frames made."""

    def __init__(self) -> None:
        self.bytes: dict[int, int] = {}
        self._frames, self._process = 0, psutil.Process()

    def event(self, name: str, **fields: Any) -> None:
        if name == "upscale.segment":
            gc.collect()
            self._frames += fields["frames"]
            self.bytes[self._frames] = self._process.memory_info().rss


def memory_growth(folder: Path, options: BenchOptions) -> float:
    """Resident bytes at the end of a long film over those after its first frames, minus 1."""
    frames = QUICK_LONG_FRAMES if options.quick else LONG_FRAMES
    footage = open_footage(_film(folder / "long.mp4", frames, (32, 24), options.seed))
    resident = _Resident()
    spec = UpscaleSpec(segment_frames=50, scene_threshold=0)
    alone.upscale(footage, spec, load_upscaler(FAST), Output(str(folder / "long-out.mp4")), resident)
    warm = next(num_bytes for done, num_bytes in resident.bytes.items() if done >= WARM_FRAMES)
    return resident.bytes[max(resident.bytes)] / warm - 1


# ------------------------------------------------------------------ footage


def _film(path: Path, frames: int, size: tuple[int, int], seed: int, scenes: int = 1) -> str:
    """Write textures that glide, with sound; its path."""
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


BENCH = Bench(
    {
        "workers_identical": Figure(
            "1 where 1, 2 and 5 workers, one of them killed, and a handoff write the packets of one process", at_least=1
        ),
        "speedup_2": Figure("seconds of one process without Ray over those of two workers"),
        "ceiling_2": Figure("the same, if two such processes that share nothing but the machine counted as one"),
        "efficiency_2": Figure("speedup_2 over ceiling_2, by round", at_least=0.92),
        "memory_growth": Figure("resident bytes after 5,000 small frames over those after 500, minus 1", at_most=0.02),
        "psnr_gain_db_min": Figure(
            "PSNR over the better of bicubic and Lanczos, of every clip and scale", at_least=0.5
        ),
        "ssim_gain_min": Figure("SSIM over the better of the two, likewise", at_least=0.0),
        "warp_ratio_max": Figure("temporal warping error over that of the bicubic enlargement", at_most=1.1),
        "temporal_gain_db": Figure("PSNR with the KV store over that without it", at_least=0.1),
    },
    measure,
    once=True,
)
