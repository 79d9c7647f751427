"""The plan that `--dry-run` prints."""

from time import perf_counter

import torch
from rich.console import Console

from longtake.pipeline.footage.values import Footage
from longtake.pipeline.models.streaming_upscaler import StreamingUpscaler
from longtake.pipeline.upscaling.preflight import gib, picture_bytes, worker_bytes
from longtake.pipeline.upscaling.work import Upscaling

_TIMED_CHUNKS = 2


def print_plan(work: Upscaling, model: StreamingUpscaler, console: Console) -> None:
    """Print sizes, scenes, segments, how many of them are finished, memory, bytes and time."""
    footage, plan, spec = work.footage, work.plan, work.plan.spec
    facts = work.summary()
    longest = max(len(span.frames) for span in plan.segments)
    again = plan.num_passed_frames - len(plan.frames)
    rate = frames_per_second(footage, spec.scale, model)
    rows = {
        "footage": f"{footage.width}x{footage.height}, frames {plan.frames.start}-{plan.frames.stop - 1} of"
        f" {footage.num_frames}, {float(footage.rate):.3f} frames/s",
        "output": f"{spec.scale * footage.width}x{spec.scale * footage.height}, {spec.codec}, quantizer"
        f" {work.encoding.quantiser}, about {gib(picture_bytes(footage, plan.frames, spec.scale, work.encoding))}",
        "scenes": f"{len(plan.scenes)}, cuts at frames {[scene.start for scene in plan.scenes[1:]]}",
        "segments": f"{len(plan.segments)} of at most {longest} frames, {facts['kept_segments']} of them finished",
        "warm-up": f"{spec.continuity}: {again} frames are processed twice,"
        f" {100 * again / len(plan.frames):.0f} % more work",
        "worker": f"about {gib(worker_bytes(footage, spec.scale, model))} of memory",
        "expected": f"{plan.num_passed_frames / rate:.0f} s in one process on this machine, {rate:.2f} frames/s",
    }
    for name, value in rows.items():
        console.print(f"{name:>9}  {value}", highlight=False)


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
