"""`longtake bench given`: what the built-in model renders to what it is given, from files as a user has them.

Shapes: f frames, h w pixels, n samples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import av
import numpy as np
import torch
from numpy.typing import NDArray

from longtake.jobs.bench.figures import BenchOptions
from longtake.pipeline import film
from longtake.pipeline.inspect.motion import follow
from longtake.pipeline.inspect.prompts import CORNER_S, away_from_ends, visible_bounces
from longtake.pipeline.inspect.shapes import detect_shapes
from longtake.pipeline.inspect.sound import window_onsets
from longtake.pipeline.inspect.subject import FilmScene
from longtake.pipeline.inspect.sync import match, merged
from longtake.pipeline.inspect.windows import sound_windows
from longtake.pipeline.journal.store import Store
from longtake.pipeline.media.read import DecodedFilm, read_film
from longtake.pipeline.models.embedded import EmbeddedModel
from longtake.pipeline.plan import plan_film
from longtake.pipeline.provenance import numerics
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.take import Take, open_take
from longtake.pipeline.training.data import render
from longtake.pipeline.training.world import CAPTIONS, FPS, HELD_OUT, SAMPLE_RATE, Caption, draw_moves
from longtake.pipeline.weights.load import load_model

Array = NDArray[np.float64]


@dataclass(frozen=True)
class TrueClip:
    """A clip of sounding shapes with its truth.

    Args:
        file: its film, in H.264 and AAC.
        hits_s: when the shape hits a wall; hits in a corner count once.
    """

    caption: Caption
    file: Path
    seconds: int
    hits_s: Array


@dataclass(frozen=True)
class _Matches:
    """Pairs of two series of events, of several clips together."""

    pairs: int
    events: int

    @classmethod
    def of(cls, series: Sequence[tuple[Array, Array]]) -> "_Matches":
        found = [match(events, onsets) for events, onsets in series]
        return cls(sum(len(one.pairs) for one in found), sum(one.num_events + one.num_onsets for one in found))

    @cached_property
    def f1(self) -> float:
        """2 pairs / (events + onsets)."""
        return 2 * self.pairs / max(1, self.events)


def measure(options: BenchOptions) -> Mapping[str, float]:
    """All figures, on one thread."""
    torch.set_num_threads(1)
    count, seconds = options.pick(full=(20, 30), quick=(6, 12), smoke=(1, 3))
    model = load_model("sounding-shapes")
    rng = np.random.default_rng(options.seed)
    captions = [caption for caption in CAPTIONS if caption.sounds and caption not in HELD_OUT]
    heard, seen = list[tuple[Array, Array]](), list[tuple[Array, Array]]()
    outside = 0
    with TemporaryDirectory(prefix="longtake-given-") as folder:
        for number in range(count):
            clip = draw(rng, captions[rng.integers(len(captions))], seconds, Path(folder) / f"{number}.mp4")
            scored = _rendered(model, clip, f"video: {clip.file}", options.seed + number)
            heard.append((clip.hits_s, _onsets(scored, clip)))
            drawn = _rendered(model, clip, "", options.seed + number, f"audio: {clip.file}")
            seen.append((_bounces(drawn, clip), clip.hits_s))
            outside += _changed_outside(model, clip, options.seed + number)
    return {
        "v2a_f1": _Matches.of(heard).f1,
        "v2a_by_chance": _Matches.of(_of_the_next(heard, seconds)).f1,
        "a2v_f1": _Matches.of(seen).f1,
        "a2v_by_chance": _Matches.of(_of_the_next(seen, seconds)).f1,
        "pixels_changed_outside": outside,
    }


def draw(rng: np.random.Generator, caption: Caption, seconds: int, file: Path) -> TrueClip:
    """Draw a true clip and write it as other tools do."""
    moves = draw_moves(rng, caption)
    clips = render([moves], Fraction(seconds))
    frames = ((clips.frames[0].permute(0, 2, 3, 1) + 1) * 127.5).round().to(torch.uint8).numpy()
    _write(file, frames, clips.sound[0].numpy())
    hits = merged(np.concatenate([times for _, times, _ in moves.hits(seconds)]), CORNER_S)
    inside = (hits > 2 / FPS) & (hits < seconds - 2 / FPS)
    return TrueClip(caption, file, seconds, hits[inside])


def _write(file: Path, frames: NDArray[np.uint8], sound: NDArray[np.float32]) -> None:
    with av.open(str(file), "w") as out:
        picture = out.add_stream("libx264", rate=FPS, options={"qp": "12"})
        picture.height, picture.width, picture.pix_fmt = *frames.shape[1:3], "yuv420p"
        tone = out.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        for number, rgb in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(rgb)
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            out.mux(picture.encode(frame))
        out.mux(picture.encode(None))
        block = av.AudioFrame.from_ndarray(sound[None].astype(np.float32), format="fltp", layout="mono")
        block.sample_rate, block.pts = SAMPLE_RATE, 0
        out.mux(tone.encode(block))
        out.mux(tone.encode(None))


def _take(model: EmbeddedModel, clip: TrueClip, given: str, seed: int, top: str = "") -> Take:
    scene = f"{{prompt: {clip.caption}, duration: {clip.seconds}s{', ' if given else ''}{given}}}"
    storyboard = parse_storyboard(f"seed: {seed}\noutput: {{hls: false}}\n{top}\nscenes: [{scene}]")
    return open_take(plan_film(storyboard, model), model, Store(f"memory://given-{uuid4()}"), numerics(model))


def _rendered(model: EmbeddedModel, clip: TrueClip, given: str, seed: int, top: str = "") -> DecodedFilm:
    take = _take(model, clip, given, seed, top)
    return read_film(film.render(take).url)


def _changed_outside(model: EmbeddedModel, clip: TrueClip, seed: int) -> int:
    """Pixels outside of a mask that differ from the footage in the frames that are encoded, of one second."""
    second = TrueClip(clip.caption, clip.file, 1, clip.hits_s)
    masked, whole = (
        _take(model, second, f"video: {clip.file}{mask}", seed) for mask in (", mask: {0s: [0, 0, 0.5, 1]}", "")
    )
    frames = range(FPS)
    black = torch.zeros(FPS, masked.plan.storyboard.video.height, masked.plan.storyboard.video.width, 3).byte()
    assert masked.given.picture is not None, "footage is shown"
    assert whole.given.picture is not None, "footage is shown"
    shown, footage = masked.given.picture(frames, black), whole.given.picture(frames, black)
    right = black.shape[2] // 2
    return int((shown[:, :, right:] != footage[:, :, right:]).any(-1).sum())


def _onsets(rendered: DecodedFilm, clip: TrueClip) -> Array:
    found = [window_onsets(window) for window in sound_windows([rendered.pcm.numpy()], rendered.sample_rate)]
    return _inside(np.concatenate(found), clip)


def _bounces(rendered: DecodedFilm, clip: TrueClip) -> Array:
    scenes = (FilmScene(str(clip.caption), True, range(len(rendered.frames))),)
    track = follow(detect_shapes(rendered.frames.numpy()).middles, FPS)
    return _inside(visible_bounces(track, scenes, FPS), clip)


def _inside(times_s: Array, clip: TrueClip) -> Array:
    scenes = (FilmScene(str(clip.caption), True, range(clip.seconds * FPS)),)
    return np.asarray(away_from_ends(times_s, scenes, FPS))


def _of_the_next(series: Sequence[tuple[Array, Array]], seconds: int) -> list[tuple[Array, Array]]:
    """Each first series with the second of another clip; of one clip, with its own, shifted by half its length."""
    if len(series) == 1:
        ((events, onsets),) = series
        return [(events, (onsets + seconds / 2) % seconds)]
    return [(events, series[(number + 1) % len(series)][1]) for number, (events, _) in enumerate(series)]
