"""Checks before the first frame is upscaled: codec, memory and disk space.

The estimates have the order of measured values, and are on the safe side for memory. The size of a compressed film is
known only afterwards, so a disk is refused only if it lacks half of the expected space.
"""

from longtake.pipeline.errors import CapacityError, SpecError
from longtake.pipeline.footage.codecs import FootageEncoding
from longtake.pipeline.footage.values import Footage
from longtake.pipeline.models.streaming_upscaler import StreamingUpscaler
from longtake.pipeline.upscaling.plan import Exact, UpscaleSpec

PROCESS_BYTES = 600 * 2**20
"""A worker before its first frame: PyTorch, FFmpeg, Ray."""

_WIDEST = {
    "h264": (16384, 16384),
    "hevc": (16384, 16384),
    "av1": (16384, 8704),
    "ffv1": (65536, 65536),
    "prores": (16384, 16384),
}
_BITS_PER_PIXEL = {"h264": 0.5, "hevc": 0.35, "av1": 0.35, "prores": 4.0}
_DEFAULT_QUANTISER = {"h264": 18, "hevc": 20, "av1": 28, "prores": 4}
_HALVES_EVERY = {"h264": 6, "hevc": 6, "av1": 10, "prores": 8}
_LOSSLESS_SHARE = 0.6


def check_size(footage: Footage, scale: int, encoding: FootageEncoding) -> None:
    """Raise `SpecError` if the pictures are too large for the codec."""
    width, height = scale * footage.width, scale * footage.height
    most = _WIDEST[encoding.codec]
    if width > most[0] or height > most[1]:
        others = [codec for codec, (w, h) in _WIDEST.items() if width <= w and height <= h]
        fix = f"use --codec {' or '.join(others)}" if others else "crop the footage first"
        raise SpecError(
            f"{footage.width}x{footage.height} times {scale} is {width}x{height}; {encoding.codec} holds at most"
            f" {most[0]}x{most[1]}; {fix}, or a smaller --scale"
        )


def check_model(model: StreamingUpscaler, spec: UpscaleSpec) -> None:
    """Raise `SpecError` if the model does not support the scale, or looks back too far for the continuity."""
    if spec.scale not in model.scales:
        raise SpecError(f"--scale is {spec.scale}; {model.name} enlarges by {' or '.join(map(str, model.scales))}")
    if isinstance(spec.continuity, Exact) and model.history_frames > MOST_EXACT_FRAMES:
        raise SpecError(
            f"--continuity is exact, which would warm {model.name} up over {model.history_frames} frames before every"
            f" segment, and {MOST_EXACT_FRAMES} are the most; use --continuity handoff, which is exact too and goes"
            " through a scene in sequence, or warmup=N, whose error is measured and reported"
        )


def worker_bytes(footage: Footage, scale: int, model: StreamingUpscaler) -> int:
    """An upper estimate of a worker's peak memory: process, weights, a pass and its state, pictures, encoder."""
    samples = 3 * footage.width * footage.height * scale**2
    weights = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    pictures = _PICTURE_COPIES * max(model.chunk_frames, model.first_chunk_frames) * samples * 4
    working = model.working_bytes(scale, footage.height, footage.width)
    return PROCESS_BYTES + weights + working + pictures + _ENCODER * samples


MOST_EXACT_FRAMES = 256
"""Twice the default segment: beyond that, most of the work would be warm-up."""

_PICTURE_COPIES = 4
_ENCODER = 12  # bytes of an encoder for each sample of a picture, references and frames at work together


def check_memory(need: int, free: int, workers: int = 1) -> None:
    """Raise `CapacityError` if workers that need `need` bytes each do not fit into `free` bytes."""
    if workers * need > free:
        fits = free // need
        fix = f"use --workers {fits}" if fits else "use a machine with more, or a smaller --scale"
        raise CapacityError(
            f"{workers} {'worker needs' if workers == 1 else 'workers need'} about {gib(workers * need)} of memory, and"
            f" {gib(free)} are free; {fix}"
        )


def picture_bytes(footage: Footage, frames: range, scale: int, encoding: FootageEncoding) -> int:
    """An estimate of the bytes of `frames` after upscaling and encoding."""
    pixels, codec = footage.width * footage.height * scale**2 * len(frames), encoding.codec
    if codec == "ffv1":
        return int(_LOSSLESS_SHARE * pixels * 1.5 * footage.bit_depth / 8)
    coarser = (encoding.quantiser - _DEFAULT_QUANTISER[codec]) / _HALVES_EVERY[codec]
    return int(pixels * _BITS_PER_PIXEL[codec] * 2.0**-coarser / 8)


def check_disk(picture: int, kept: int, free: int | None) -> str | None:
    """A warning if the disk may not suffice for segments and output, which hold the picture once each.

    Args:
        picture: see `picture_bytes`.
        kept: bytes of finished segments.
        free: bytes; None if unknown.

    Raises:
        CapacityError: less than half of what is expected is free.
    """
    need = max(0, 2 * picture - kept)
    if free is None or free >= need:
        return None
    numbers = f"segments and output need about {gib(need)} of disk, and {gib(free)} are free"
    if free < need / 2:
        raise CapacityError(f"{numbers}; use another -o, a smaller --scale, or a coarser --quality")
    return f"the disk may fill up: {numbers}"


def gib(num_bytes: float) -> str:
    """Bytes in words."""
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.0f} MiB"
