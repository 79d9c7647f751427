"""`longtake render --dry-run`: print the plan, and its expected cost on this machine."""

from collections import Counter
from fractions import Fraction
from time import perf_counter
from typing import Any

from rich.console import Console
from rich.table import Table

from longtake.pipeline.clock import ChunkSpan
from longtake.pipeline.conditioning.encoder import ConditioningEncoder
from longtake.pipeline.models.protocols import FilmModel
from longtake.pipeline.parallel.degrees import Degrees
from longtake.pipeline.plan import FilmPlan, kv_bytes
from longtake.pipeline.sampling.step_cache import EVERYTHING
from longtake.pipeline.sampling_spec import GuidanceSpec
from longtake.pipeline.stages.decode import DecodeStage
from longtake.pipeline.stages.denoise import DenoiseStage
from longtake.pipeline.stages.embed import EmbedStage
from longtake.pipeline.values import LatentChunk
from longtake.pipeline.weights.memory import MemoryNeed, Weighed, memory_need
from longtake.pipeline.weights.options import AS_STORED, LoadOptions

FEWEST_TOKENS = 2000
"""Of a pass on each rank. With fewer, a split costs more than it saves."""


def print_plan(
    plan: FilmPlan, model: FilmModel, degrees: Degrees, console: Console, load: LoadOptions = AS_STORED
) -> None:
    """Print the scenes on the clock, chunks, tokens, memory, the traffic of a gang, and the expected time.

    A pass is timed for it if the weights fit.
    """
    console.print(_scenes(plan))
    need = _need(plan, model, load)
    longest = max(plan.chunks, key=plan.tokens)
    rows = {
        "film": f"{plan.num_frames} frames, {plan.num_samples} samples, {_clock(plan.num_frames / plan.clock.fps)}",
        "chunks": f"{len(plan.chunks)}, of at most {len(longest.latents)} video latents"
        f" ({float(longest.stop_s - longest.start_s):g} s)",
        "tokens": f"{plan.tokens(longest)} a pass, {plan.rollout.describe_context(plan.kv_plan)}",
        "passes": f"{plan.num_passes} a chunk: {plan.num_steps} steps"
        f"{' and the clean pass' if plan.rollout.has_clean_pass else ''}, for {' and '.join(plan.branches)}"
        f"{_repeated(plan)}{_saved(plan)}",
        "KV store": f"{kv_bytes(plan, model) / 2**20:.1f} MiB, from the first chunk to the last",
        "expected": "not timed, because the weights do not fit"
        if need is not None and not need.fits
        else f"{_clock(expected_seconds(plan, model))} of denoising and decoding on this machine",
    }
    if need is not None:
        rows["memory"] = _memory(need, load)
    rows["settings"] = _settings(plan)
    rows["weights"] = f"{str(model.dtype).removeprefix('torch.')} in memory (--dtype)"
    if files := plan.storyboard.conditioning_files():
        rows["given"] = ", ".join(f"{file.key} {file.url}" for file in files)
    if degrees.ranks > 1:
        rows["gang"] = _gang(plan, model, longest, degrees)
        rows["expected"] += ", with one rank"
    for name, value in rows.items():
        console.print(f"{name:>9}  {value}")


def _need(plan: FilmPlan, model: FilmModel, load: LoadOptions) -> MemoryNeed | None:
    """The memory that the model needs; None for the built-in ones, which fit anywhere."""
    return memory_need(model, load, kv_bytes(plan, model)) if isinstance(model, Weighed) else None


def _memory(need: MemoryNeed, load: LoadOptions) -> str:
    """What the weights need next to what is free, and what offloading would change or costs."""
    parts = ", ".join(f"{name} {gib(part.total)}" for name, part in need.parts.items())
    text = (
        f"weights of {gib(need.total)} ({parts}); in one process {gib(need.held + need.kv)} with the KV store are"
        f" needed, and {gib(need.free)} are free on {load.device}: it {'fits' if need.fits else 'does not fit'}"
    )
    held, read = need.offloaded
    if need.read:
        return f"{text}; --offload keeps {gib(held)} of the transformer and reads {gib(need.read)} for each pass"
    if not need.fits and load.quantize is None:
        text += f"; --offload layers would keep {gib(held)} of the transformer and read {gib(read)} for each pass"
    return text


def gib(count: int) -> str:
    """Bytes in GiB, or in MiB if they are few."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def plan_card(plan: FilmPlan, model: FilmModel, degrees: Degrees, load: LoadOptions) -> dict[str, Any]:
    """The plan in JSON's types."""
    need = _need(plan, model, load)
    memory = (
        {}
        if need is None
        else {
            "weight_bytes": {name: part.total for name, part in need.parts.items()},
            "held_bytes": need.held + need.kv,
            "free_bytes": need.free,
            "fits": need.fits,
            "offload_bytes_per_pass": need.read,
        }
    )
    longest = max(plan.chunks, key=plan.tokens)
    counts = Counter(chunk.scene for chunk in plan.chunks)
    scenes = [
        {
            "prompt": written.prompt,
            "cut": scene.cut,
            "frames": [scene.frames.start, scene.frames.stop],
            "chunks": counts[scene.index],
        }
        for scene, written in zip(plan.scenes, plan.storyboard.scenes, strict=True)
    ]
    return {
        "title": plan.storyboard.title,
        "film_s": float(plan.num_frames / plan.clock.fps),
        "frames": plan.num_frames,
        "samples": plan.num_samples,
        "chunks": len(plan.chunks),
        "scenes": scenes,
        "tokens_per_pass": plan.tokens(longest),
        "passes_per_chunk": plan.num_passes,
        "computed_share": plan.steps.plan.work(plan.setting),
        "kv_bytes": kv_bytes(plan, model),
        "ranks": degrees.ranks,
        **memory,
        "expected_s": None if need is not None and not need.fits else round(expected_seconds(plan, model), 2),
    }


def expected_seconds(plan: FilmPlan, model: FilmModel) -> float:
    """Seconds to denoise and decode the film here, from one pass with a full context that is timed now."""
    given = ConditioningEncoder(model, plan)
    denoise, decode = DenoiseStage(model, plan, given.before), DecodeStage(model, plan, given.before)
    # A rollout with a clean pass is timed in that pass, in which no latents are given.
    embed = EmbedStage(model.text, plan, (lambda _: None) if plan.rollout.has_clean_pass else given)
    noise, shapes = denoise.engine.sampling.noise, plan.latent_shapes

    def drawn(span: ChunkSpan) -> LatentChunk:
        video = noise.draw("video", span.latents, shapes["video"])
        return LatentChunk(span, video, noise.draw("audio", span.audio_latents, shapes["audio"]))

    pass_s = decode_s = 0.0
    for chunk in plan.chunks[: plan.kv_plan.num_pages + 1]:
        if chunk.section > 0:
            break
        latents = [drawn(part) for part in (chunk, *plan.decode_ahead(chunk))]
        conditioning = embed(chunk)
        started = perf_counter()
        decode(*latents)
        decoded = perf_counter()
        denoise.dry_pass(latents[0], conditioning)
        decode_s, pass_s = decoded - started, perf_counter() - decoded
    work, clean = plan.steps.plan.work(plan.setting) or 1.0, int(plan.rollout.has_clean_pass)
    passes = sum((plan.passes(chunk) - clean) * work + clean for chunk in plan.chunks)
    return passes * pass_s + len(plan.chunks) * decode_s


def _repeated(plan: FilmPlan) -> str:
    more = max(map(plan.passes, plan.chunks)) - plan.num_passes // len(plan.branches)
    return f"; {more} steps more for the first chunk after each cut" if more else ""


def _saved(plan: FilmPlan) -> str:
    """What the step plan saves of the passes."""
    if plan.steps.plan is EVERYTHING:
        return ""
    names = ", ".join(entry.method or "a calibrated plan" for entry in plan.steps.entries)
    work = plan.steps.plan.work(plan.setting)
    if work is None:
        return f"\n           {names}: how many passes are saved depends on the film"
    passes = len(plan.branches) * plan.num_steps
    return f"\n           {names}: {1 - work:.0%} of the steps' work is saved, that of {(1 - work) * passes:.1f} passes"


def _gang(plan: FilmPlan, model: FilmModel, chunk: ChunkSpan, degrees: Degrees) -> str:
    """The degrees, what the ranks send, and a warning if the split does not pay."""
    traffic = plan.traffic(chunk, degrees, model.dtype.itemsize)
    text = (
        f"{degrees.ranks} ranks: ulysses {degrees.ulysses}, ring {degrees.ring}, cfg {degrees.cfg};"
        f" {traffic.layer_bytes / 2**10:.0f} KiB sent in each layer of each pass,"
        f" {traffic.step_bytes / 2**10:.0f} KiB of velocities in each step"
    )
    tokens = plan.tokens(chunk) // (degrees.ulysses * degrees.ring)
    if tokens < FEWEST_TOKENS and degrees.ulysses * degrees.ring > 1:
        text += (
            f"\n           each rank has {tokens} tokens in a pass; below about {FEWEST_TOKENS} a split costs"
            " more than it saves: use fewer ranks, or render several takes at the same time"
        )
    return text


def _settings(plan: FilmPlan) -> str:
    """Each sampling setting and the negative prompt, grouped by where they are taken from."""
    sampling = plan.storyboard.sampling
    by_source: dict[str, list[str]] = {}
    keys = type(sampling).model_fields.keys() - {"accelerate"}
    values = {f"sampling.{key}": getattr(sampling, key) for key in type(sampling).model_fields if key in keys}
    if "unguided" in plan.branches:
        values["negative"] = plan.storyboard.negative or "none"
    for key, value in values.items():
        if value is not None:
            said = f"{key.removeprefix('sampling.')} {_short(value)}"
            by_source.setdefault(plan.sources.get(key, "the model's default"), []).append(said)
    return "\n           ".join(f"{', '.join(said)} ({source})" for source, said in by_source.items())


def _short(value: object) -> str:
    if isinstance(value, GuidanceSpec):
        return "{" + ", ".join(f"{key}: {_short(each)}" for key, each in value) + "}"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _scenes(plan: FilmPlan) -> Table:
    table = Table("scene", "opens", "frames", "from", "to", "chunks", "prompt", title=plan.storyboard.title)
    for scene, written in zip(plan.scenes, plan.storyboard.scenes, strict=True):
        start, stop = (_clock(frame / plan.clock.fps) for frame in (scene.frames.start, scene.frames.stop))
        chunks = sum(chunk.scene == scene.index for chunk in plan.chunks)
        opens = "cut" if scene.cut else "continue"
        frames = f"{scene.frames.start}-{scene.frames.stop - 1}"
        table.add_row(str(scene.index), opens, frames, start, stop, str(chunks), written.prompt)
    return table


def _clock(seconds: Fraction | float) -> str:
    minutes, rest = divmod(float(seconds), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:06.3f}"
