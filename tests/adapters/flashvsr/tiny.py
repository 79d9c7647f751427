"""A FlashVSR of a few thousand weights, and frames for it."""

from dataclasses import replace
from pathlib import Path

import torch
from pydantic import TypeAdapter
from safetensors.torch import save_file

from longtake.pipeline.adapters.flashvsr.dit import DiTSizes
from longtake.pipeline.adapters.flashvsr.model import FlashVSR, FlashVSRSettings, FlashVSRSizes
from longtake.pipeline.adapters.flashvsr.weights import HEADER, Header

DIT = DiTSizes(
    width=24,
    ffn_width=32,
    layers=2,
    heads=2,
    latent_channels=4,
    text_width=8,
    text_tokens=3,
    sinusoid_width=16,
)
SIZES = FlashVSRSizes(DIT, hidden=(8, 6), decoder=(8, 8, 4, 4))


def tiny_flashvsr(variant="v1.1", settings=None, dtype=torch.float32, sizes=SIZES) -> FlashVSR:
    torch.manual_seed(0)
    model = FlashVSR(sizes, variant, settings or FlashVSRSettings())
    torch.nn.init.normal_(model.prompt)
    return model.to(dtype).eval()


def film(num_frames: int, height: int = 32, width: int = 32, seed: int = 1) -> torch.Tensor:
    """Frames [f 3 h w] in 0..1 that all differ."""
    return torch.rand(num_frames, 3, height, width, generator=torch.Generator().manual_seed(seed))


def upscaled(model: FlashVSR, frames: torch.Tensor, first_frame: int = 0, step: int | None = None) -> torch.Tensor:
    """All pictures of `frames`, pushed `step` at a time."""
    state = model.start(4, *frames.shape[-2:], first_frame)
    pictures = [model.push(some, state) for some in frames.split(step or len(frames))]
    return torch.cat([*pictures, model.finish(state)])


def save_tiny_flashvsr(file: Path, layers: int = DIT.layers) -> str:
    """Write a tiny one as `convert_flashvsr` does; the file's path."""
    model = tiny_flashvsr(sizes=replace(SIZES, dit=replace(DIT, layers=layers)))
    tensors = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
    header = TypeAdapter(Header).dump_json(Header(model.variant, model.sizes)).decode()
    save_file(tensors, file, {HEADER: header})
    return str(file)
