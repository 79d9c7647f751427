"""`longtake bench world`: the readers of the second world, on true clips, as drawn and through H.264 and AAC.

To judge a model by these readers, one must know how often they are wrong. Chance is what they say about the next clip.

Shapes: f frames, h w pixels, n samples.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from statistics import fmean, median
from time import process_time

import av
import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from longtake.jobs.bench.figures import BenchOptions
from longtake.jobs.bench.world_readings import Judged, Pooled, in_sync
from longtake.pipeline.inspect.prompts import CORNER_S
from longtake.pipeline.inspect.second_world.reading import Reading, read_film
from longtake.pipeline.inspect.sync import merged
from longtake.pipeline.training.second_world.moves import FPS, Floats
from longtake.pipeline.training.second_world.pictures import Pixels
from longtake.pipeline.training.second_world.sounds import SAMPLE_RATE
from longtake.pipeline.training.second_world.world import TrueClip, draw_clip

UNSEEN_STEP = 10**9 + 200
"""A step that no training reaches."""

_SECONDS = 4
_QP = 20
_AAC_PRIMING = 1024  # samples that the encoder adds in front, which a player skips
_AUDIBLE = 6.4, 121.6  # places further out sound alike


def measure(options: BenchOptions) -> Mapping[str, float]:
    """All figures."""
    num_clips = options.pick(full=200, quick=40, smoke=2)
    drawn, coded, seconds = [], [], []
    for number in range(num_clips):
        started = process_time()
        clip = draw_clip((options.seed, UNSEEN_STEP), number, _SECONDS, held_out=number % 5 == 4)
        seconds.append(process_time() - started)
        frames, sound = _frames(clip), clip.sound
        drawn.append(_judged(clip, read_film(frames, FPS, sound, SAMPLE_RATE)))
        if options.size != "smoke" or number == 0:
            coded.append(_judged(clip, read_film(*_coded(frames, sound))))
    return {
        "draw_ms": 1000 * median(seconds),
        **_figures(drawn),
        **{f"{name}_coded": value for name, value in _figures(coded).items()},
        **_chance(drawn),
    }


@dataclass(frozen=True)
class _OfTruth(Judged):
    """A clip of the world, whose truth is known."""

    clip: TrueClip

    def path_errors(self) -> Floats:
        """Distances from the true paths, in units; NaN where a shape was found hidden."""
        times_s = (np.arange(len(self.clip.pictures.frames)) + 0.5) / FPS
        places = self.clip.moves.places(times_s)
        errors = [np.hypot(*(seen.path - places[number]).T) for number, _, seen, _ in self.pairs()]
        return np.concatenate([np.zeros(0), *errors])

    def overlaps(self) -> Iterable[float]:
        """Intersection over union of true and read masks."""
        for number, _, seen, _ in self.pairs():
            truth, read = self.clip.pictures.covers[number] > 0.5, seen.cover > 0.5
            yield float((truth & read).sum() / max(1, (truth | read).sum()))

    def camera_error(self) -> float:
        """Largest error of the place of the room's edges, in pixels."""
        times_s = (np.arange(len(self.clip.pictures.frames)) + 0.5) / FPS
        moves, view = self.clip.moves, self.reading.ground.view
        scale = np.abs(view.scale - moves.scale(times_s)).max() * 64
        return float(scale + np.abs(view.offset[:, 0] - moves.offset(times_s)).max())

    def true_events(self, colour: str, audible: bool) -> Floats:
        """Times of the events of a colour; those at a corner count once."""
        caption = self.clip.moves.caption
        times = [
            event.time_s
            for event in self.clip.moves.events
            if caption.bodies[event.body].colour == colour and (caption.bodies[event.body].sounds or not audible)
        ]
        return self.inner(merged(times, CORNER_S))

    def timbres(self) -> Iterable[bool]:
        """For each heard event of a colour that is there, whether its timbre is that of the shape."""
        shapes = {body.colour: body.shape for body in self.clip.moves.caption.bodies}
        return (event.shape == shapes[event.colour] for event in self.reading.heard.events if event.colour in shapes)

    def sides(self) -> Iterable[float]:
        """For each heard event of a true one, how far its place is from the true one, in units."""
        bodies = self.clip.moves.caption.bodies
        for heard in self.reading.heard.events:
            for event in self.clip.moves.events:
                if bodies[event.body].colour == heard.colour and abs(event.time_s - heard.time_s) < CORNER_S:
                    yield abs(float(np.clip(event.place[0], *_AUDIBLE)) - heard.x)


def _judged(clip: TrueClip, reading: Reading) -> _OfTruth:
    return _OfTruth(clip.moves.caption, reading, _SECONDS, clip)


def _figures(judged: Sequence[_OfTruth]) -> dict[str, float]:
    votes: dict[str, list[bool]] = {}
    for one in judged:
        for name, is_right in one.names():
            votes.setdefault(name, []).append(is_right)
    errors = np.concatenate([one.path_errors() for one in judged])
    errors = errors[np.isfinite(errors)]
    seen, heard = Pooled(), Pooled()
    for one in judged:
        for body in one.clip.moves.caption.bodies:
            seen.add(one.true_events(body.colour, audible=False), one.seen_events(body.colour))
            heard.add(one.true_events(body.colour, audible=True), one.heard_events(body.colour))
    return {
        **{f"{name}_accuracy": fmean(answers) for name, answers in votes.items()},
        "path_error_px": float(np.median(errors)),
        "path_error_p99_px": float(np.quantile(errors, 0.99)),
        "mask_iou": fmean(overlap for one in judged for overlap in one.overlaps()),
        "camera_error_px": float(np.quantile([one.camera_error() for one in judged], 0.95)),
        "seen_f1": seen.f1,
        "seen_error_ms": seen.error_ms,
        "heard_f1": heard.f1,
        "heard_error_ms": heard.error_ms,
        "timbre_accuracy": fmean([is_right for one in judged for is_right in one.timbres()] or [True]),
        "heard_place_error_px": median([error for one in judged for error in one.sides()] or [0.0]),
        "sync_f1": in_sync(judged).f1,
    }


def _chance(judged: Sequence[_OfTruth]) -> dict[str, float]:
    """The readings of the next clip, and events whose sound is shifted by half a clip."""
    others = [_judged(one.clip, judged[(number + 1) % len(judged)].reading) for number, one in enumerate(judged)]
    votes = [is_right for one in others for _, is_right in one.names()]
    return {
        "accuracy_by_chance": fmean(votes),
        "sync_f1_by_chance": in_sync(judged, shifted=True).f1,
    }


def _frames(clip: TrueClip) -> NDArray[np.uint8]:
    """RGB [f h w 3]."""
    levels = np.round((clip.pictures.frames + 1) * 127.5).astype(np.uint8)
    return rearrange(levels, "f c h w -> f h w c").copy()


def _coded(frames: NDArray[np.uint8], sound: Pixels) -> tuple[NDArray[np.uint8], float, Pixels, int]:
    """Frames and sound after H.264 with 4:2:0 and AAC, as arguments of `read_film`."""
    file = BytesIO()
    with av.open(file, "w", format="mp4") as out:
        video = out.add_stream("libx264", rate=Fraction(FPS), options={"qp": str(_QP), "threads": "1"})
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt = "yuv420p"
        audio = out.add_stream("aac", rate=SAMPLE_RATE, layout="stereo")
        audio.bit_rate = 128_000
        for picture in frames:
            out.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(video.encode())
        samples = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound), format="fltp", layout="stereo")
        samples.sample_rate = SAMPLE_RATE
        out.mux(audio.encode(samples))
        out.mux(audio.encode())
    file.seek(0)
    with av.open(file, "r") as film:
        pictures = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    file.seek(0)
    with av.open(file, "r") as film:
        heard = np.concatenate([frame.to_ndarray() for frame in film.decode(audio=0)], axis=1)
    return np.stack(pictures), FPS, heard[:, _AAC_PRIMING:], SAMPLE_RATE
