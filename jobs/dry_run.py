"""`longtake render --dry-run`: the plan, and what it will cost here."""

from time import perf_counter

from rich.console import Console
from rich.table import Table

from pipeline.clock import ChunkSpan
from pipeline.models.film_model import FilmModel
from pipeline.plan import FilmPlan, kv_bytes
from pipeline.stages.decode import DecodeStage
from pipeline.stages.denoise import DenoiseStage
from pipeline.stages.embed import EmbedStage
from pipeline.values import LatentChunk


def print_plan(plan: FilmPlan, model: FilmModel, console: Console) -> None:
    """Print scenes with their snapped borders, chunks, tokens, KV bytes and the expected time."""
    console.print(_scenes(plan))
    longest = max(plan.chunks, key=plan.tokens)
    rows = {
        "film": f"{plan.num_frames} frames, {plan.num_samples} samples, {_clock(plan.num_frames / plan.clock.fps)}",
        "chunks": f"{len(plan.chunks)}, of at most {len(longest.latents)} video latents"
        f" ({float(longest.stop_s - longest.start_s):g} s)",
        "tokens": f"{plan.tokens(longest)} a pass, seeing {model.plan.sink} sink and {model.plan.window} window chunks",
        "passes": f"{len(plan.branches) * len(plan.sigmas)} a chunk: {len(plan.sigmas) - 1} steps and the clean pass,"
        f" for {' and '.join(plan.branches)}",
        "KV store": f"{kv_bytes(plan, model) / 2**20:.1f} MiB, from the first chunk to the last",
        "expected": f"{_clock(expected_seconds(plan, model))} of denoising and decoding on this machine",
    }
    for name, value in rows.items():
        console.print(f"{name:>9}  {value}", highlight=False)


def expected_seconds(plan: FilmPlan, model: FilmModel) -> float:
    """Seconds to denoise and decode the film here, from one pass with a full context, timed now."""
    denoise, decode = DenoiseStage(model, plan, _nothing), DecodeStage(model, plan, _nothing)
    prompts = EmbedStage(model.text, plan)(plan.chunks[0])
    noise, shapes = denoise.rollout.sampling.noise, plan.latent_shapes
    pass_s = decode_s = 0.0
    for chunk in plan.chunks[: model.plan.num_pages + 1]:
        if chunk.section:
            break
        video = noise.draw("video", chunk.latents, shapes["video"])
        latents = LatentChunk(chunk, video, noise.draw("audio", chunk.audio_latents, shapes["audio"]))
        started = perf_counter()
        denoise.rollout.clean_pass(latents, prompts)
        passed = perf_counter()
        decode(latents)
        pass_s, decode_s = passed - started, perf_counter() - passed
    return len(plan.chunks) * (len(plan.sigmas) * pass_s + decode_s)


def _nothing(_: ChunkSpan) -> None:
    """No latents are finished."""


def _scenes(plan: FilmPlan) -> Table:
    table = Table("scene", "opens", "frames", "from", "to", "chunks", "prompt", title=plan.wish.title)
    for scene, wished in zip(plan.scenes, plan.wish.scenes, strict=True):
        start, stop = (_clock(frame / plan.clock.fps) for frame in (scene.frames.start, scene.frames.stop))
        chunks = sum(chunk.scene == scene.index for chunk in plan.chunks)
        opens = "cut" if scene.cut else "continue"
        frames = f"{scene.frames.start}-{scene.frames.stop - 1}"
        table.add_row(str(scene.index), opens, frames, start, stop, str(chunks), wished.prompt)
    return table


def _clock(seconds: float) -> str:
    minutes, rest = divmod(float(seconds), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:06.3f}"
