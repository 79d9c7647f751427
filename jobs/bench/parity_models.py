"""Open weights' architectures on our road beside diffusers' own passes and pipelines, on tiny random configurations."""

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from jobs.bench import Bench, BenchOptions, Figure
from jobs.bench import wan_parity as wan
from jobs.bench.ranks import run_ranks
from pipeline.adapters.wan_fake import FORMS
from pipeline.attention.parallel import context_parallel
from pipeline.attention.shares import Degrees

GANGS = (Degrees(ulysses=2), Degrees(ring=3), Degrees(cfg=2), Degrees(ring=2), Degrees(ulysses=3))


def measure(options: BenchOptions) -> Mapping[str, float]:
    """Passes, clips by one rank and by gangs over gloo, and codecs in chunks; each difference is printed."""
    torch.set_num_threads(1)
    passes = {f"a pass of {name}": wan.pass_difference(case) for name, case in wan.PASSES.items()}
    levels = torch.tensor([[0.0, 0.2, 0.9, 0.9, 0.5]])
    passes["a pass of Wan 2.2 5B, a level for each latent"] = wan.pass_difference(wan.PassCase("2.2"), levels)
    with tempfile.TemporaryDirectory(prefix="longtake-parity-") as folder:
        clips = [wan.their_clip(kind, Path(folder) / kind) for kind in wan.CLIPS]
        alone: dict[str, float] = {}
        for clip in clips:
            model, latents = wan.our_clip(clip)
            alone[f"latents of a clip of Wan {clip.kind}"] = float((latents.video - clip.latents).abs().max())
            alone[f"frames of a clip of Wan {clip.kind}"] = wan.decoded_difference(clip, model, latents)
        ranks = run_ranks(partial(_on_rank, clips, GANGS[: 3 if options.quick else None]), 3)
    shared = {what: max(rank[what] for rank in ranks if what in rank) for what in ranks[0]}
    decoded = {f"a chunked decode of Wan's {form} codec": wan.chunked_difference(form) for form in FORMS}
    for what, away in {**passes, **alone, **shared, **decoded}.items():
        print(f"{what}: {away:.1e}")
    return {
        "cases": len(passes) + len(alone) + len(shared) + len(decoded),
        "max_abs_float32": max(*passes.values(), *alone.values()),
        "max_abs_ranks_float32": max(shared.values()),
        "decode_abs_float64": max(decoded.values()),
    }


def _on_rank(clips: Sequence[wan.Clip], gangs: Sequence[Degrees], rank: int) -> dict[str, float]:
    """How far this rank's latents are from diffusers', for every clip and gang that it is in."""
    found = {}
    for clip in clips:
        for degrees in gangs:
            if rank < degrees.ranks:
                _, latents = wan.our_clip(clip, context_parallel(degrees, range(degrees.ranks)))
                away = float((latents.video - clip.latents).abs().max())
                found[f"latents of a clip of Wan {clip.kind}, {degrees}"] = away
    return found


BENCH = Bench(
    {
        "cases": Figure("passes, clips, gangs and codecs that were compared with diffusers' own"),
        "max_abs_float32": Figure("largest difference of a pass, or of a whole clip's latents or frames", at_most=1e-5),
        "max_abs_ranks_float32": Figure("the same of clips that 2 and 3 ranks render", at_most=1e-5),
        "decode_abs_float64": Figure("largest difference of a decode in chunks from diffusers' at once", at_most=1e-10),
    },
    measure,
    once=True,
)
