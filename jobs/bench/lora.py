"""A LoRA for a colour that the built-in model was not trained on: trained, rendered, and rated from pixels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from longtake.actors.cluster import joined
from longtake.jobs.bench.fidelity import sample_captions
from longtake.jobs.bench.figures import BenchOptions
from longtake.jobs.bench.film_ratings import FilmToRate, rate_all
from longtake.jobs.progress import Progress
from longtake.jobs.train.loop import train
from longtake.pipeline import acts, film
from longtake.pipeline.journal.journal import latents_to_bytes
from longtake.pipeline.journal.store import Store
from longtake.pipeline.models.embedded import EmbeddedModel
from longtake.pipeline.observe import SILENT
from longtake.pipeline.parallel.context_parallel import ContextParallel
from longtake.pipeline.parallel.degrees import Degrees
from longtake.pipeline.parallel.gang import ONE_RANK, Parallel
from longtake.pipeline.plan import plan_film
from longtake.pipeline.provenance import numerics
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.take import Take, open_take
from longtake.pipeline.testing.thread_ranks import run_threads
from longtake.pipeline.training.run_folder import RunFolder
from longtake.pipeline.training.spec import TrainSpec
from longtake.pipeline.training.tasks import build_task
from longtake.pipeline.training.world import TAUGHT_CAPTIONS, TAUGHT_COLOURS
from longtake.pipeline.values import LatentChunk
from longtake.pipeline.weights.load import load_model
from longtake.pipeline.weights.lora import Naming, merge, read_lora

MODEL = "sounding-shapes"
RECIPE: Mapping[str, Any] = {
    "stage": "lora", "seed": 4, "steps": 200, "batch_size": 4, "lr": 3e-3, "betas": (0.9, 0.98), "warmup_steps": 20,
    "decay_fraction": 0.5, "ema": 0.98, "dtype": "float32", "log_every": 20, "checkpoint_every_s": 60,
    "options": {"rank": 4, "chunks": 2, "copies": 2, "shift": 5.0},
}  # fmt: skip
"""What configs/cpu/lora.yaml says."""


@dataclass(frozen=True)
class Sizes:
    """How much is trained and rendered.

    Args:
        model: that the LoRA changes.
        steps: of its training.
        short: steps of the runs that are stopped and resumed.
        workers: of these runs, one after the other; none for no such runs.
        films: of the taught colour, and as many of other captions.
        seconds: of a film.
        processes: that render.
    """

    model: str
    steps: int
    short: int
    workers: tuple[int, ...]
    films: int
    seconds: int
    processes: int


FULL = Sizes(MODEL, steps=200, short=6, workers=(1, 2), films=50, seconds=10, processes=2)
QUICK = replace(FULL, workers=(2,), films=12, seconds=5)
SMOKE = Sizes("tiny", steps=2, short=2, workers=(), films=1, seconds=1, processes=1)


def measure(options: BenchOptions) -> Mapping[str, float]:
    """Train the LoRA, and short ones that are stopped; render with them and without."""
    sizes = options.pick(full=FULL, quick=QUICK, smoke=SMOKE)
    torch.set_num_threads(1)
    with TemporaryDirectory() as place:
        folder = Path(place)
        with joined(None):
            seconds = _train(folder / "whole", sizes, sizes.steps)
            differ = [_runs_differ(folder / str(workers), sizes, workers) for workers in sizes.workers]
        lora = str(folder / "whole" / "model.safetensors")
        other = lora if not sizes.workers else str(folder / str(sizes.workers[-1]) / "undisturbed/model.safetensors")
        return {
            "train_s": seconds,
            "runs_that_differ": float(sum(differ)),
            **_accuracies(lora, sizes, options.seed),
            **Films(sizes.model, lora, other).compared(),
        }


# ---------------------------------------------------------------- training


class StopsAfter(Event):
    """An event that is set after some queries, as by Ctrl-C after so many calls."""

    def __init__(self, queries: int) -> None:
        super().__init__()
        self._left = queries

    @override
    def is_set(self) -> bool:
        self._left -= 1
        return self._left < 0


def _train(folder: Path, sizes: Sizes, steps: int, stopping: Event | None = None, **changes: Any) -> float:
    """Train, or resume, the run in a folder; its seconds of work."""
    short = {"warmup_steps": 0, "decay_fraction": 0.0} if steps < RECIPE["steps"] else {}
    spec = TrainSpec.model_validate({**RECIPE, **short, "steps": steps, "model": sizes.model, **changes})
    return train(spec, RunFolder(str(folder)), build_task, stopping or Event(), Progress.silent()).seconds


def _runs_differ(folder: Path, sizes: Sizes, workers: int) -> bool:
    """Whether a run that was stopped and resumed ends in other bits than an undisturbed one."""
    changes: dict[str, Any] = {"workers": workers, "checkpoint_every_s": 0}
    _train(folder / "undisturbed", sizes, sizes.short, **changes)
    _train(folder / "stopped", sizes, sizes.short, StopsAfter(1), **changes)
    _train(folder / "stopped", sizes, sizes.short, **changes)
    files = [folder / name / "model.safetensors" for name in ("undisturbed", "stopped")]
    return files[0].read_bytes() != files[1].read_bytes()


# ---------------------------------------------------------------- what films show


def _accuracies(lora: str, sizes: Sizes, seed: int) -> dict[str, float]:
    """Of films of the taught colour, and of other captions with the LoRA and without. Shapes, motions and seeds are the
    same, and mixed as in `bench fidelity`."""
    others = sample_captions(seed)[: sizes.films]
    taught = [replace(caption, colour=next(iter(TAUGHT_COLOURS))) for caption in others]
    films = [
        *(FilmToRate(caption, sizes.seconds, seed + number, lora=lora) for number, caption in enumerate(taught)),
        *(FilmToRate(caption, sizes.seconds, seed + number, lora=lora) for number, caption in enumerate(others)),
        *(FilmToRate(caption, sizes.seconds, seed + number) for number, caption in enumerate(others)),
    ]
    accurate = [rating.accurate for rating in rate_all(sizes.model, films, sizes.processes)]
    shares = [float(np.mean(accurate[start : start + sizes.films])) for start in range(0, len(films), sizes.films)]
    return {
        "taught_accuracy": shares[0],
        "others_accuracy": shares[1],
        "others_accuracy_without": shares[2],
        "others_change": abs(shares[1] - shares[2]),
    }


# ---------------------------------------------------------------- exactness


class _Killed(Exception):  # noqa: N818 (no error)
    """Ends a render as a kill does."""


class _KillsAfter:
    """An observer that ends the render after a chunk was denoised."""

    def __init__(self, chunk: int) -> None:
        self._chunk = chunk

    def event(self, name: str, **fields: Any) -> None:
        """Raise once the chunk is done."""
        if name == "denoise.chunk" and fields["chunk"] == self._chunk:
            raise _Killed


class Films:
    """Short films of two scenes with two LoRAs, compared with each other.

    Args:
        lora, other: files of LoRAs of the model called `model`.
    """

    def __init__(self, model: str, lora: str, other: str) -> None:
        self._name, self._model, self._files = model, load_model(model), (lora, other)
        self._takes = 0

    def compared(self) -> dict[str, float]:
        """How far unmerged is from merged, and how many films have other bits than they should."""
        one, two = f"{{file: {self._files[0]}}}", f"{{file: {self._files[1]}}}"
        unmerged = self._latents(self._take(f"[{one}]"))
        scenes = f"[{{file: {self._files[0]}, scenes: [0]}}, {{file: {self._files[1]}, scenes: [1]}}]"
        both, second = self._latents(self._take(scenes)), self._latents(self._take(f"[{two}]"))
        expected = [unmerged[k] if chunk.span.start_s < 1 else second[k] for k, chunk in enumerate(both)]
        return {
            "merged_abs_float32": self._merged_away(f"[{one}]", torch.float32),
            "merged_abs_float64": self._merged_away(f"[{one}]", torch.float64),
            "films_that_differ": float(
                sum((not _same(both, expected), self._resumed_differs(scenes), self._ranks_differ(scenes)))
            ),
        }

    def _take(self, loras: str, model: EmbeddedModel | None = None, place: str | None = None) -> Take:
        model, self._takes = model or self._model, self._takes + 1
        board = parse_storyboard(
            f"{{model: {self._name}, sampling: {{steps: 2}}, loras: {loras}, scenes: ["
            f"{{prompt: {TAUGHT_CAPTIONS[0]}, duration: 1s}},"
            f"{{prompt: {TAUGHT_CAPTIONS[-1]}, duration: 1s, transition: cut}}]}}"
        )
        store = Store(place or f"memory://bench-lora-{id(self)}-{self._takes}")
        return open_take(plan_film(board, model), model, store, numerics(model))

    def _latents(self, take: Take, parallel: Parallel = ONE_RANK) -> list[LatentChunk]:
        embed, denoise = acts.embed(take, SILENT), acts.denoise(take, SILENT, parallel)
        return [denoise(chunk, embed(chunk)) for chunk in take.plan.chunks]

    def _merged_away(self, loras: str, dtype: torch.dtype) -> float:
        """How far the film is from that of merged weights."""
        unmerged = self._latents(self._take(loras, load_model(self._name).to(dtype)))
        merged = self._latents(self._take("[]", self._merged(dtype)))
        return max(_away(a, b) for a, b in zip(unmerged, merged, strict=True))

    def _merged(self, dtype: torch.dtype) -> EmbeddedModel:
        model = load_model(self._name).to(dtype)
        state = dict(model.denoiser.state_dict())
        layout = {key: tuple(weight.shape) for key, weight in state.items()}
        merge(state, read_lora(Path(self._files[0]), layout, Naming()))
        model.denoiser.load_state_dict(state)
        return model

    def _resumed_differs(self, loras: str) -> bool:
        """Whether a film that was killed and resumed has other bits."""
        whole, killed = self._take(loras), self._take(loras)
        film.render(whole)
        try:
            film.render(killed, _KillsAfter(0))
        except _Killed:
            film.render(self._take(loras, load_model(self._name), killed.store.url))
        return whole.store.get("film.mp4") != killed.store.get("film.mp4")

    def _ranks_differ(self, loras: str) -> bool:
        """Whether two ranks end in other bits, or in others when the second chunk is denoised after a resume."""
        degrees = Degrees(ulysses=2)

        def act(parallel: ContextParallel) -> list[LatentChunk]:
            place = f"memory://bench-lora-{id(self)}-{parallel.place}"
            take = self._take(loras, load_model(self._name), place)
            latents = self._latents(take, parallel)
            take.journal.keep_latents(latents[0])
            embed, chunk = acts.embed(take, SILENT), take.plan.chunks[1]
            return [*latents, acts.denoise(take, SILENT, parallel)(chunk, embed(chunk))]

        first, second = run_threads(act, degrees)
        return not _same(first, second) or not _same(first[1:2], first[-1:])


def _same(one: Sequence[LatentChunk], other: Sequence[LatentChunk]) -> bool:
    return [latents_to_bytes(chunk) for chunk in one] == [latents_to_bytes(chunk) for chunk in other]


def _away(one: LatentChunk, other: LatentChunk) -> float:
    pairs: list[tuple[Tensor, Tensor]] = [(one.video, other.video), (one.audio, other.audio)]
    return max(float((a - b).abs().max()) for a, b in pairs)
