"""Whether a model of the second world draws what its prompts ask for, with sound that meets the picture.

Its films are judged by the readers that `bench world` proves; they are proven again on true clips through its codecs.

Shapes: b clips, f frames, c channels, h w pixels, m channels of the sound, n samples.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import fmean

import numpy as np
import torch
from einops import reduce

from longtake.jobs.bench.fidelity import realtime_factor
from longtake.jobs.bench.figures import BenchOptions
from longtake.jobs.bench.film_ratings import render
from longtake.jobs.bench.ranks import fork_server
from longtake.jobs.bench.world_readings import Judged, in_sync
from longtake.pipeline.errors import SpecError
from longtake.pipeline.inspect.second_world.reading import read_film
from longtake.pipeline.media.picture import to_uint8
from longtake.pipeline.models.embedded import EmbeddedModel
from longtake.pipeline.plan import plan_film
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.training.second_world.captions import Body, Caption, draw_caption
from longtake.pipeline.training.second_world.clips import SecondWorld
from longtake.pipeline.training.second_world.moves import FPS
from longtake.pipeline.weights.load import load_model

MODEL = "second-world"
UNSEEN_STEP = 10**9 + 300
"""A step that no training reaches, so that its clips are held out."""

_CLIP_S = 4


@dataclass(frozen=True)
class Films:
    """How many films of each kind are rendered, and how many true clips go through the codecs.

    Args:
        seconds: length of a film.
        workers: processes that render.
    """

    one: int
    two: int
    held_out: int
    clips: int
    seconds: int = 6
    workers: int = os.cpu_count() or 1


FULL, QUICK = Films(60, 60, 40, clips=64), Films(10, 10, 8, clips=16)
SMOKE = Films(1, 0, 0, clips=1, seconds=1, workers=1)


def measure(options: BenchOptions) -> Mapping[str, float]:
    """All figures of the shipped weights, or of `options.model`."""
    name = options.model or MODEL
    model = load_model(name)
    if not model.trained and options.size != "smoke":
        raise SpecError(f"model {name} has random weights; add --model with the model.safetensors of a training run")
    torch.set_num_threads(1)
    films = options.pick(full=FULL, quick=QUICK, smoke=SMOKE)
    rng = np.random.default_rng((options.seed, UNSEEN_STEP))
    captions = [
        *_captions(rng, films.one, 1),
        *_captions(rng, films.two, 2),
        *(draw_caption(rng, held_out=True) for _ in range(films.held_out)),
    ]
    judged = _judge_all(name, captions, films, options.seed)
    one, two = judged[: films.one], judged[films.one : films.one + films.two]
    return {
        **_codecs(model, films.clips, options.seed),
        "prompt_accuracy_one": _accuracy(one),
        "prompt_accuracy_two": _accuracy(two),
        "prompt_accuracy_held_out": _accuracy(judged[films.one + films.two :]),
        "attribute_accuracy": fmean(is_right for film in judged for _, is_right in film.names()),
        "onset_f1_one": in_sync(one).f1,
        "onset_f1_fast": in_sync(one, _moves("fast")).f1,
        "onset_f1_slow": in_sync(one, _moves("slow")).f1,
        "onset_f1_two": in_sync(two).f1,
        "onset_f1_by_chance": in_sync(judged, shifted=True).f1,
        "offset_ms": abs(in_sync(judged).offset_ms),
        "realtime_factor": realtime_factor(model, options, "a red circle bounces fast on a dark background"),
    }


def _captions(rng: np.random.Generator, count: int, bodies: int) -> list[Caption]:
    captions: list[Caption] = []
    while len(captions) < count:
        caption = draw_caption(rng)
        if len(caption.bodies) == bodies:
            captions.append(caption)
    return captions


def _moves(speed: str) -> Callable[[Body], bool]:
    return lambda body: speed in body.motion


def _accuracy(judged: Sequence[Judged]) -> float:
    """The share of films in which everything is as the prompt says."""
    right = [
        len(list(film.pairs())) == len(film.caption.bodies) and all(is_right for _, is_right in film.names())
        for film in judged
    ]
    return fmean(right) if right else float("nan")


# -------------------------------------------------------------------- films, in processes of one thread each

_MODEL: list[EmbeddedModel] = []


def _judge_all(model: str, captions: Sequence[Caption], films: Films, seed: int) -> list[Judged]:
    wanted = [(caption, films.seconds, seed + number) for number, caption in enumerate(captions)]
    if films.workers == 1:
        _start(model)
        return [_judge(*film) for film in wanted]
    with fork_server().Pool(films.workers, _start, (model,)) as pool:
        return pool.starmap(_judge, wanted, chunksize=1)


def _start(model: str) -> None:
    torch.set_num_threads(1)
    _MODEL[:] = [load_model(model)]


def _judge(caption: Caption, seconds: int, seed: int) -> Judged:
    """Render a film and read it."""
    model = _MODEL[0]
    storyboard = parse_storyboard(f"{{seed: {seed}, scenes: [{{prompt: {caption}, duration: {seconds}s}}]}}")
    plan = plan_film(storyboard, model)
    chunks = [(shown.frames.numpy(), heard.pcm.numpy()) for shown, heard in render(model, plan)]
    frames, sound = (np.concatenate(parts, axis) for parts, axis in zip(zip(*chunks, strict=True), (0, 1), strict=True))
    reading = read_film(frames, float(plan.clock.fps), sound, plan.clock.sample_rate)
    return Judged(caption, reading, seconds)


# -------------------------------------------------------------------- codecs


@torch.inference_mode()
def _codecs(model: EmbeddedModel, num_clips: int, seed: int) -> dict[str, float]:
    """PSNR of pictures, and what the readers say of true clips through the codecs."""
    errors, judged = [], []
    for number in range(num_clips):
        clips = SecondWorld().draw((seed, UNSEEN_STEP), [number], Fraction(_CLIP_S))
        decoded, _ = model.video_codec.decode(model.video_codec.encode(clips.frames), None)
        errors.append(reduce((decoded.clamp(-1, 1) - clips.frames) ** 2, "1 f c h w -> ", "mean") / 4)
        sound, _ = model.sound_codec.decode(model.sound_codec.encode(clips.sound[0]), None, final=True)
        caption = Caption.parse(clips.prompts[0])
        assert caption is not None
        reading = read_film(to_uint8(decoded[0]).numpy(), FPS, sound.numpy(), model.config.sound_codec.sample_rate)
        judged.append(Judged(caption, reading, _CLIP_S))
    return {
        "codec_psnr_db": float((-10 * torch.log10(torch.stack(errors))).mean()),
        "codec_attribute_accuracy": fmean(is_right for film in judged for _, is_right in film.names()),
        "codec_sync_f1": in_sync(judged).f1,
    }
