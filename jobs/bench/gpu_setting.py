"""Where `longtake bench gpu` runs, how large its networks are, and how it times them."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import nn

from longtake.pipeline.adapters.flashvsr.dit import DiTSizes
from longtake.pipeline.adapters.flashvsr.model import FlashVSRSizes


@dataclass(frozen=True)
class Sizes:
    """How large the networks are.

    Args:
        wan: heads, head width, layers, MLP width and prompt width of causal Wan.
        large: the same of a second one, of which single chunks are timed.
        latent: height and width of a latent.
        text_tokens: of a prompt.
        attention: heads, queries and keys.
        text: layers, width, MLP width and heads of the text encoder.
        vae: width of the video autoencoder.
        matrix: side of the square matrices that are multiplied.
        film: a built-in model, and the seconds of its film.
        picture: height and width of pictures that are encoded.
        upscaled: height and width of frames that are upscaled.
        flashvsr: of FlashVSR.
    """

    wan: tuple[int, int, int, int, int]
    large: tuple[int, int, int, int, int]
    latent: tuple[int, int]
    text_tokens: int
    attention: tuple[int, int, int]
    text: tuple[int, int, int, int]
    vae: int
    matrix: int
    film: tuple[str, int]
    picture: tuple[int, int]
    upscaled: tuple[int, int]
    flashvsr: FlashVSRSizes


PUBLISHED = Sizes(
    wan=(12, 128, 30, 8960, 4096),
    large=(40, 128, 40, 13_824, 4096),
    latent=(60, 104),
    text_tokens=512,
    attention=(12, 4680, 18_720),
    text=(24, 4096, 10_240, 64),
    vae=96,
    matrix=8192,
    film=("sounding-shapes", 8),
    picture=(480, 832),
    upscaled=(136, 240),
    flashvsr=FlashVSRSizes(),
)
TOY = Sizes(
    wan=(2, 12, 2, 48, 16),
    large=(2, 12, 2, 48, 16),
    latent=(2, 2),
    text_tokens=8,
    attention=(2, 24, 48),
    text=(1, 16, 24, 2),
    vae=3,
    matrix=64,
    film=("tiny", 2),
    picture=(32, 48),
    upscaled=(16, 16),
    flashvsr=FlashVSRSizes(
        DiTSizes(24, 32, 2, heads=2, latent_channels=4, text_width=8, text_tokens=3, sinusoid_width=16),
        hidden=(8, 6),
        decoder=(8, 8, 4, 4),
    ),
)


@dataclass(frozen=True)
class Setting:
    """Where and how large.

    Args:
        device: "cuda", or "cpu" for a rehearsal.
        repeats: of everything that is timed.
    """

    device: str
    sizes: Sizes
    repeats: int

    def seconds(self, run: Callable[[], object]) -> float:
        """The median time of `run`, after one that does not count."""
        found = []
        for _ in range(self.repeats + 1):
            self.wait()
            started = perf_counter()
            run()
            self.wait()
            found.append(perf_counter() - started)
        return median(found[1:])

    def wait(self) -> None:
        """Until the device has done everything."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def random(self, network: Callable[[], Any], dtype: torch.dtype, made_on: str | None = None) -> Any:
        """A network of random weights.

        Args:
            made_on: the device whose random numbers they are; None for this one.
        """
        with torch.device("meta"):
            made = nn.Module.to(network(), dtype)
        made = nn.Module.to_empty(made, device=made_on or self.device)
        generator = torch.Generator(made_on or self.device).manual_seed(0)
        precise = getattr(made, "_keep_in_fp32_modules", None) or ()
        for name, tensor in (*made.named_parameters(), *made.named_buffers()):
            if tensor.is_floating_point():
                tensor.data.normal_(0.0, 0.02, generator=generator)
                if tensor.dim() == 1 and name.endswith("weight"):
                    tensor.data.add_(1.0)
            if any(part in name for part in precise):
                tensor.data = tensor.data.float()
        return nn.Module.to(made, self.device).eval()
