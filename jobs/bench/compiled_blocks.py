"""Compiled blocks of small networks of every family: what of them is not one graph, and what they compute."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor
from torch._dynamo.utils import counters

from longtake.pipeline.adapters.ltx2.denoiser import LTX2Denoiser, text_widths
from longtake.pipeline.adapters.wan.denoiser import WanDenoiser
from longtake.pipeline.attention.context import Pass
from longtake.pipeline.attention.kv_plan import KVPlan
from longtake.pipeline.attention.kv_store import KVStore
from longtake.pipeline.clock import MediaClock, plan_chunks, plan_scenes
from longtake.pipeline.models.compiled import compile_blocks
from longtake.pipeline.models.embedded import TINY, EmbeddedModel
from longtake.pipeline.models.protocols import BlockDenoiser, Stream
from longtake.pipeline.parallel.gang import ONE_RANK, Parallel
from longtake.pipeline.parallel.sharded_denoiser import ShardedDenoiser
from longtake.pipeline.testing import ltx2, wan

LATENTS, SIZE, SOUND, TEXT_TOKENS = 2, 4, 3, 5
"""Video latents of a pass, their height and width, audio latents, and tokens of a prompt."""
CLOCK = MediaClock(Fraction(16), 16_000, 4, 800)


@dataclass(frozen=True)
class Small:
    """A small network.

    Args:
        build: the denoiser.
        shapes: of the latents of a pass, by stream [f ...].
        text: tokens of a prompt, and their width.
    """

    build: Callable[[], BlockDenoiser]
    shapes: Mapping[str, tuple[int, ...]]
    text: tuple[int, int]


def _wan() -> Small:
    """One that reads an image, too."""
    network = wan.tiny_transformer(image=True)
    shapes = {"video": (LATENTS, network.config.in_channels, SIZE, SIZE), "image": (7, wan.IMAGE_WIDTH)}
    width = network.config.num_attention_heads * network.config.attention_head_dim
    return Small(lambda: WanDenoiser(network, text_tokens=TEXT_TOKENS), shapes, (TEXT_TOKENS, width))


def _ltx2(form: ltx2.Form) -> Small:
    network = ltx2.tiny_transformer(form)
    shapes = {
        "video": (LATENTS, ltx2.LATENT_CHANNELS, SIZE, SIZE),
        "audio": (SOUND, ltx2.AUDIO_CHANNELS * ltx2.AUDIO_MEL),
    }
    return Small(lambda: LTX2Denoiser(network, TEXT_TOKENS), shapes, (TEXT_TOKENS, sum(text_widths(network.config))))


def _built_in() -> Small:
    sizes = TINY.denoiser
    shapes = {"video": (LATENTS, sizes.video_channels, SIZE, SIZE), "audio": (SOUND, sizes.audio_channels)}
    return Small(lambda: EmbeddedModel.untrained(TINY).denoiser, shapes, (sizes.text_tokens, sizes.text_width))


FAMILIES: Mapping[str, Callable[[], Small]] = {
    "wan": _wan,
    "ltx2 2.0": lambda: _ltx2("2.0"),
    "ltx2 2.3": lambda: _ltx2("2.3"),
    "built in": _built_in,
}


@torch.inference_mode()
def velocities(
    small: Small, denoiser: BlockDenoiser, parallel: Parallel = ONE_RANK, device: str = "cpu"
) -> dict[str, Tensor]:
    """What one pass over a chunk computes, on a device where the denoiser is."""
    draw = torch.Generator().manual_seed(0)
    streams = {
        name: Stream(
            torch.randn(1, *shape, generator=draw).to(device),
            torch.full((1, shape[0]), 0.5, device=device),
            torch.arange(shape[0], dtype=torch.float64, device=device) / 4,
        )
        for name, shape in small.shapes.items()
    }
    text = torch.randn(1, *small.text, generator=draw).to(device)
    store = KVStore(
        denoiser.sites(SIZE, SIZE, LATENTS, SOUND), KVPlan(1), denoiser.rope, device=device, parallel=parallel
    )
    chunk = plan_chunks(CLOCK, plan_scenes(CLOCK, [Fraction(LATENTS, 4)], [True]), LATENTS)[0]
    with store.open(chunk, "guided") as context:
        return ShardedDenoiser(denoiser, parallel)(streams, text, context, Pass(0, "guided"))


def compiled(backend: str = "aot_eager") -> tuple[int, float]:
    """How often the compiled blocks of all families return to Python, summed over the families; and how far their
    velocities are from those of uncompiled blocks.

    Args:
        backend: of `torch.compile`; the default runs the operations of the graphs one by one.
    """
    breaks, away = 0, 0.0
    for family in FAMILIES.values():
        small = family()
        denoiser = small.build()
        plain = velocities(small, denoiser)
        compile_blocks(denoiser.blocks, backend=backend, fullgraph=False)
        counters.clear()
        found = velocities(small, denoiser)
        breaks += sum(counters["graph_break"].values()) + counters["stats"]["unique_graphs"] - 1
        away = max(away, *(float((found[name] - plain[name]).abs().max()) for name in plain if plain[name].numel()))
    return breaks, away
