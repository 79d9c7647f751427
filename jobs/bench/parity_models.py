"""Open weights' architectures on our road beside diffusers' own passes and pipelines, on tiny random configurations."""

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path

import torch

from longtake.jobs.bench import Bench, BenchOptions, Figure
from longtake.jobs.bench import ltx2_parity as ltx2
from longtake.jobs.bench import wan_parity as wan
from longtake.jobs.bench.ranks import run_ranks
from longtake.pipeline.parallel.context_parallel import context_parallel
from longtake.pipeline.parallel.degrees import Degrees
from longtake.pipeline.testing.ltx2 import FORMS as LTX2_FORMS
from longtake.pipeline.testing.wan import FORMS

LTX2_KINDS = tuple(product(LTX2_FORMS, ("split", "interleaved")))
GANGS = (Degrees(ulysses=2), Degrees(ring=3), Degrees(cfg=2), Degrees(ring=2), Degrees(ulysses=3))


def measure(options: BenchOptions) -> Mapping[str, float]:
    """Passes, clips by one rank and by gangs over gloo, and codecs in chunks; each difference is printed."""
    torch.set_num_threads(1)
    passes = {f"a pass of {name}": wan.pass_difference(case) for name, case in wan.PASSES.items()}
    levels = torch.tensor([[0.0, 0.2, 0.9, 0.9, 0.5]])
    passes["a pass of Wan 2.2 5B, a level for each latent"] = wan.pass_difference(wan.PassCase("2.2"), levels)
    for form, rope_type in LTX2_KINDS:
        passes[f"a pass of LTX-2 {form}, {rope_type} positions"] = ltx2.pass_difference(form, rope_type)
    with tempfile.TemporaryDirectory(prefix="longtake-parity-") as folder:
        clips = [wan.their_clip(kind, Path(folder) / kind) for kind in wan.CLIPS]
        alone = {
            f"a clip of LTX-2, guidance {kind}": ltx2.clip_difference(ltx2.GUIDANCE[kind]) for kind in ltx2.GUIDANCE
        }
        for clip in clips:
            model, latents = wan.our_clip(clip)
            alone[f"latents of a clip of Wan {clip.kind}"] = float((latents.video - clip.latents).abs().max())
            alone[f"frames of a clip of Wan {clip.kind}"] = wan.decoded_difference(clip, model, latents)
        ranks = run_ranks(partial(_on_rank, clips, GANGS[: 3 if options.quick else None]), 3)
    shared = {what: max(rank[what] for rank in ranks if what in rank) for what in ranks[0]}
    codecs = {f"Wan's {form} codec": wan.chunked_difference(form) for form in FORMS} | ltx2.chunked_differences()
    decoded = {f"a chunked decode of {codec}": away for codec, away in codecs.items()}
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
    for degrees in (degrees for degrees in gangs if rank < degrees.ranks):
        parallel = context_parallel(degrees, range(degrees.ranks))
        for clip in clips:
            away = (wan.our_clip(clip, parallel)[1].video - clip.latents).abs().max()
            found[f"latents of a clip of Wan {clip.kind}, {degrees}"] = float(away)
        for form, rope_type in LTX2_KINDS if degrees.cfg == 1 else ():
            away_of_pass = ltx2.pass_difference(form, rope_type, parallel=parallel)
            found[f"a pass of LTX-2 {form}, {rope_type} positions, {degrees}"] = away_of_pass
    return found


BENCH = Bench(
    {
        "cases": Figure("passes, clips, gangs and codecs that were compared with diffusers' own"),
        "max_abs_float32": Figure(
            "largest difference of a pass, or of a clip's latents or frames",
            at_most=1e-5,
        ),
        "max_abs_ranks_float32": Figure("the same of clips and passes that 2 and 3 ranks share", at_most=1e-5),
        "decode_abs_float64": Figure("largest difference of a decode in chunks from diffusers' at once", at_most=1e-10),
    },
    measure,
    once=True,
)
