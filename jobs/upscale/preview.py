"""`longtake upscale --preview`: a short stretch, upscaled, next to its bicubic enlargement."""

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from torch.nn import functional

from longtake.pipeline.footage.codecs import FootageEncoding
from longtake.pipeline.footage.encode import FootageSegmentEncoder
from longtake.pipeline.footage.mux import write_footage
from longtake.pipeline.footage.pictures import read_pictures
from longtake.pipeline.footage.values import Footage
from longtake.pipeline.journal.store import Store
from longtake.pipeline.models.streaming_upscaler import StreamingUpscaler
from longtake.pipeline.upscaling.plan import UpscaleSpec

SECONDS = Fraction(2)


def stretch(footage: Footage, frames: range) -> range:
    """The frames in the middle of `frames` that last about `SECONDS` together."""
    count = min(len(frames), max(1, round(SECONDS * footage.rate)))
    start = frames.start + (len(frames) - count) // 2
    return range(start, start + count)


def write_preview(footage: Footage, frames: range, spec: UpscaleSpec, model: StreamingUpscaler, output: str) -> str:
    """Write `frames`, bicubic on the left and upscaled on the right, into a file next to `output`; returns its URL.

    For rotated footage, the two are arranged so that they are side by side after the player's rotation.
    """
    if footage.rotation % 180 == 0:
        double, dim = replace(footage, width=2 * footage.width), 3
    else:
        double, dim = replace(footage, height=2 * footage.height), 2
    encoding, scale = FootageEncoding(spec.codec, spec.quality, torch.get_num_threads()), spec.scale
    encoder = FootageSegmentEncoder(double, scale, encoding, frames)
    plain = read_pictures(footage, frames)
    for large in _upscaled(footage, frames, scale, model):
        small = torch.stack(list(islice(plain, len(large))))
        both = (_bicubic(small, scale), large)
        encoder.add(torch.cat(both[:: _order(footage)], dim=dim))
    folder, _, name = output.rpartition("/")
    place, path = Store(folder or "."), PurePosixPath(name)
    name = f"{path.stem}.preview{path.suffix}"
    with TemporaryDirectory(prefix="longtake-") as scratch:
        written = Path(scratch) / name
        write_footage(double, [encoder.finish()], encoding, written)
        place.put_file(name, written)
    return place.url_of(name)


def _upscaled(footage: Footage, frames: range, scale: int, model: StreamingUpscaler) -> Iterator[Tensor]:
    """Upscaled pictures [f 3 H W] of `frames` as they become ready; no frames before them are read."""
    state, pictures = model.start(scale, footage.height, footage.width), read_pictures(footage, frames)
    device = next(model.parameters()).device
    while read := list(islice(pictures, model.chunk_frames)):
        if len(ready := model.push(torch.stack(read).to(device), state)):
            yield ready.cpu()
    if len(ready := model.finish(state)):
        yield ready.cpu()


def _order(footage: Footage) -> int:
    """-1 if the player's rotation swaps the two halves, else 1; degrees are counter-clockwise."""
    return -1 if footage.rotation % 360 in (180, 270) else 1


def _bicubic(small: Tensor, scale: int) -> Tensor:
    return functional.interpolate(small, scale_factor=scale, mode="bicubic").clamp(0, 1)
