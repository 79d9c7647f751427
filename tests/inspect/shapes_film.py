"""Films of sounding shapes with known hits, for tests of the inspector."""

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import av
import numpy as np
import torch

from longtake.pipeline.clock import MediaClock, plan_chunks, plan_scenes
from longtake.pipeline.journal.store import Store
from longtake.pipeline.journal.take import put_take, take_card
from longtake.pipeline.scene_spec import Scene
from longtake.pipeline.spec import Storyboard
from longtake.pipeline.stages.encode import EncodeStage
from longtake.pipeline.stages.publish import PublishOptions, PublishStage
from longtake.pipeline.training.data import render
from longtake.pipeline.training.world import FPS, SAMPLE_RATE, Caption, Moves, draw_moves, switched
from longtake.pipeline.values import FrameChunk, SoundChunk


@dataclass(frozen=True)
class TrueFilm:
    frames: np.ndarray  # uint8 [f h w 3]
    sound: np.ndarray  # float32 [n]
    moves: Moves
    hits_s: np.ndarray  # of all walls, with or without a sound

    @property
    def seconds(self):
        return len(self.sound) / SAMPLE_RATE


def film_of(moves, seconds):
    clips = render([moves], seconds)
    frames = ((clips.frames[0].permute(0, 2, 3, 1) + 1) * 127.5).round().to(torch.uint8)
    hits = np.sort(np.concatenate([times for _, times, _ in moves.hits(seconds)]))
    return TrueFilm(frames.numpy(), clips.sound[0].numpy(), moves, hits)


@lru_cache(maxsize=64)
def true_film(prompt, seconds=16, seed=0):
    return film_of(draw_moves(np.random.default_rng(seed), Caption.parse(prompt)), seconds)


def switched_film(prompt, then, at_s, seconds, seed=0):
    rng = np.random.default_rng(seed)
    return film_of(switched(rng, draw_moves(rng, Caption.parse(prompt)), Caption.parse(then), at_s), seconds)


def inner(times_s, seconds, edge_s=2 / FPS):
    """Times far enough from both ends for a turn to be visible."""
    return times_s[(times_s > edge_s) & (times_s < seconds - edge_s)]


CLOCK = MediaClock(Fraction(FPS), SAMPLE_RATE, video_stride=4, audio_stride=800)


def write_take(folder, film, prompts, seconds, cuts=None, chunk_latents=4):
    """Write a take of a true film with the pipeline's encoder and publisher; returns its folder."""
    scenes = plan_scenes(CLOCK, [Fraction(s) for s in seconds], cuts or [True] * len(prompts))
    chunks = plan_chunks(CLOCK, scenes, chunk_latents)
    storyboard = Storyboard(
        title="Truth", scenes=[Scene(prompt=p, duration=f"{s}s") for p, s in zip(prompts, seconds, strict=True)]
    )
    store, encode = Store(str(folder)), EncodeStage(CLOCK.fps, quality=12)
    frames, sound = torch.from_numpy(film.frames), torch.from_numpy(film.sound)[None]
    with PublishStage(store, PublishOptions(CLOCK.fps, Fraction(1), hls=False)) as publish:
        for chunk in chunks:
            picture = FrameChunk(chunk, frames[chunk.frames.start : chunk.frames.stop].contiguous())
            samples = sound[:, chunk.samples.start : chunk.samples.stop].contiguous()
            publish(encode(picture, SoundChunk(chunk.samples.start, SAMPLE_RATE, samples)))
    put_take(store, take_card(storyboard, CLOCK, scenes, chunks))
    return str(folder)


def write_mp4(path, frames, sound=None, ticks=None, fps=FPS):
    """Write a film as other tools do, with one encoder and one muxer; `ticks` are frame times in frames."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=fps, options={"qp": "12", "bf": "0"})
        video.height, video.width, video.pix_fmt = *frames.shape[1:3], "yuv420p"
        video.codec_context.time_base = Fraction(1, fps)
        audio = None if sound is None else container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        for number, rgb in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(rgb)
            frame.pts, frame.time_base = (number if ticks is None else ticks[number]), Fraction(1, fps)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None:
            block = av.AudioFrame.from_ndarray(sound[None].astype(np.float32), format="fltp", layout="mono")
            block.sample_rate, block.pts = SAMPLE_RATE, 0
            container.mux(audio.encode(block))
            container.mux(audio.encode(None))
    return str(path)
