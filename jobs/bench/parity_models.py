"""The architectures of open weights in our pipeline, compared with diffusers' own passes and pipelines.

The weights are tiny and random.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import torch

from longtake.jobs.bench import ltx2_parity as ltx2, wan_parity as wan
from longtake.jobs.bench.figures import BenchOptions
from longtake.jobs.bench.ranks import run_ranks
from longtake.pipeline.parallel.context_parallel import context_parallel
from longtake.pipeline.parallel.degrees import Degrees
from longtake.pipeline.testing.ltx2 import FORMS as LTX2_FORMS, Form
from longtake.pipeline.testing.wan import FORMS, Kind

LTX2_KINDS = tuple(product(LTX2_FORMS, ("split", "interleaved")))
GANGS = (Degrees(ulysses=2), Degrees(ring=3), Degrees(cfg=2), Degrees(ring=2), Degrees(ulysses=3))


@dataclass(frozen=True)
class Cases:
    """What is compared."""

    wan_passes: Sequence[str] = tuple(wan.PASSES)
    ltx2_passes: Sequence[tuple[Form, str]] = LTX2_KINDS
    wan_clips: Sequence[Kind] = tuple(wan.CLIPS)
    ltx2_clips: Sequence[str] = tuple(ltx2.GUIDANCE)
    gangs: Sequence[Degrees] = GANGS


SMOKE = Cases(("Wan 2.1",), LTX2_KINDS[:1], ("2.1",), ("none",), GANGS[:1])


def measure(options: BenchOptions) -> Mapping[str, float]:
    """Compare passes, clips of one rank and of gangs over gloo, and codecs in chunks; print each difference."""
    torch.set_num_threads(1)
    cases = options.pick(full=Cases(), quick=Cases(gangs=GANGS[:3]), smoke=SMOKE)
    passes = _passes(cases)
    with tempfile.TemporaryDirectory(prefix="longtake-parity-") as folder:
        clips = [wan.their_clip(kind, Path(folder) / kind) for kind in cases.wan_clips]
        alone = _clips(cases, clips)
        ranks = run_ranks(partial(_on_rank, cases, clips), max(degrees.ranks for degrees in cases.gangs))
    shared = {what: max(rank[what] for rank in ranks if what in rank) for what in ranks[0]}
    codecs = {f"Wan's {form} codec": wan.chunked_difference(form) for form in FORMS} | ltx2.chunked_differences()
    decoded = {f"a chunked decode of {codec}": difference for codec, difference in codecs.items()}
    for what, difference in {**passes, **alone, **shared, **decoded}.items():
        print(f"{what}: {difference:.1e}")
    return {
        "cases": len(passes) + len(alone) + len(shared) + len(decoded),
        "max_abs_float32": max(*passes.values(), *alone.values()),
        "max_abs_ranks_float32": max(shared.values()),
        "decode_abs_float64": max(decoded.values()),
    }


def _passes(cases: Cases) -> dict[str, float]:
    """The differences of single passes."""
    found = {f"a pass of {name}": wan.pass_difference(wan.PASSES[name]) for name in cases.wan_passes}
    levels = torch.tensor([[0.0, 0.2, 0.9, 0.9, 0.5]])
    found["a pass of Wan 2.2 5B, a level for each latent"] = wan.pass_difference(wan.PassCase("2.2"), levels)
    for form, rope_type in cases.ltx2_passes:
        found[f"a pass of LTX-2 {form}, {rope_type} positions"] = ltx2.pass_difference(form, rope_type)
    return found


def _clips(cases: Cases, clips: Sequence[wan.Clip]) -> dict[str, float]:
    """The differences of clips that one rank renders."""
    found = {
        f"a clip of LTX-2, guidance {kind}": ltx2.clip_difference(ltx2.GUIDANCE[kind]) for kind in cases.ltx2_clips
    }
    for clip in clips:
        model, latents = wan.our_clip(clip)
        found[f"latents of a clip of Wan {clip.kind}"] = float((latents.video - clip.latents).abs().max())
        found[f"frames of a clip of Wan {clip.kind}"] = wan.decoded_difference(clip, model, latents)
    return found


def _on_rank(cases: Cases, clips: Sequence[wan.Clip], rank: int) -> dict[str, float]:
    """The differences of clips and passes that gangs share, for all gangs that this rank belongs to."""
    found = {}
    for degrees in (degrees for degrees in cases.gangs if rank < degrees.ranks):
        parallel = context_parallel(degrees, range(degrees.ranks))
        for clip in clips:
            difference = (wan.our_clip(clip, parallel)[1].video - clip.latents).abs().max()
            found[f"latents of a clip of Wan {clip.kind}, {degrees}"] = float(difference)
        for form, rope_type in cases.ltx2_passes if degrees.cfg == 1 else ():
            of_pass = ltx2.pass_difference(form, rope_type, parallel=parallel)
            found[f"a pass of LTX-2 {form}, {rope_type} positions, {degrees}"] = of_pass
    return found
