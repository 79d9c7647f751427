"""The plan that `--dry-run` prints."""

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

import torch
from rich.console import Console

from longtake.jobs.pace import span
from longtake.pipeline.footage.values import Footage
from longtake.pipeline.models.streaming_upscaler import StreamingUpscaler
from longtake.pipeline.upscaling.preflight import gib, picture_bytes, worker_bytes
from longtake.pipeline.upscaling.work import Upscaling

_TIMED_CHUNKS = 2
_CUTS_SHOWN = 8


def plan_card(work: Upscaling, model: StreamingUpscaler) -> dict[str, Any]:
    """The plan in JSON's types, with the speed of the model on this machine."""
    footage, plan, spec = work.footage, work.plan, work.plan.spec
    rate = frames_per_second(footage, spec.scale, model)
    return {
        "frames": [plan.frames.start, plan.frames.stop],
        "size": [spec.scale * footage.width, spec.scale * footage.height],
        "bytes": picture_bytes(footage, plan.frames, spec.scale, work.encoding),
        "cuts": [scene.start for scene in plan.scenes[1:]],
        "segments": len(plan.segments),
        "kept_segments": work.summary()["kept_segments"],
        "processed_frames": plan.num_passed_frames,
        "worker_bytes": worker_bytes(footage, spec.scale, model),
        "frames_per_s": round(rate, 3),
        "expected_s": round(plan.num_passed_frames / rate, 1),
    }


def print_plan(work: Upscaling, card: Mapping[str, Any], console: Console) -> None:
    """Print sizes, scenes, segments, how many of them are finished, memory, bytes and time, from `plan_card`."""
    footage, plan, spec = work.footage, work.plan, work.plan.spec
    longest = max(len(segment.frames) for segment in plan.segments)
    again = plan.num_passed_frames - len(plan.frames)
    rows = {
        "footage": f"{footage.width}x{footage.height}, frames {plan.frames.start}-{plan.frames.stop - 1} of"
        f" {footage.num_frames}, {float(footage.rate):.3f} frames/s",
        "output": f"{spec.scale * footage.width}x{spec.scale * footage.height}, {spec.codec}, quantizer"
        f" {work.encoding.quantiser}, about {gib(card['bytes'])}",
        "scenes": f"{len(plan.scenes)}{cuts_in_words(card['cuts'])}",
        "segments": f"{len(plan.segments)} of at most {longest} frames, {card['kept_segments']} of them finished",
        "warm-up": f"{spec.continuity}: {again} frames are processed twice,"
        f" {100 * again / len(plan.frames):.0f} % more work",
        "worker": f"about {gib(card['worker_bytes'])} of memory",
        "expected": f"{span(card['expected_s'])} in one process on this machine, {card['frames_per_s']:.2f} frames/s",
    }
    for name, value in rows.items():
        console.print(f"{name:>9}  {value}")


def cuts_in_words(cuts: Sequence[int]) -> str:
    """Where scenes begin, by frame; of many cuts only the first."""
    if not cuts:
        return ", no cuts"
    shown = ", ".join(map(str, cuts[:_CUTS_SHOWN]))
    more = f" and {len(cuts) - _CUTS_SHOWN} more" if len(cuts) > _CUTS_SHOWN else ""
    return f", cuts at frames {shown}{more}"


def frames_per_second(footage: Footage, scale: int, model: StreamingUpscaler) -> float:
    """The speed of the model on this machine, measured on black pictures; the first chunk is not timed."""
    state = model.start(scale, footage.height, footage.width)
    device = next(model.parameters()).device
    black = torch.zeros(1, 3, footage.height, footage.width, device=device)
    model.push(black.expand(model.first_chunk_frames + model.lookahead_frames, -1, -1, -1), state)
    seconds = []
    for _ in range(_TIMED_CHUNKS):
        started = perf_counter()
        model.push(black.expand(model.chunk_frames, -1, -1, -1), state).cpu()
        seconds.append(perf_counter() - started)
    return model.chunk_frames / min(seconds)
