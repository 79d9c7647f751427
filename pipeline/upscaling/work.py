"""The work of upscaling one film, as every process that takes part sees it: plan, keys, numerics."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from longtake.pipeline.footage.codecs import FootageEncoding, target_of
from longtake.pipeline.footage.values import Footage
from longtake.pipeline.journal.footage_segments import FootageSegmentJournal, FootageSegmentKey, hash_of
from longtake.pipeline.journal.keys import RECORDED_LATER, Parts
from longtake.pipeline.journal.store import Store
from longtake.pipeline.models.streaming_upscaler import ChunkGrid, StreamingUpscaler
from longtake.pipeline.provenance import gpu_parts, on_processors, process_parts
from longtake.pipeline.upscaling.alpha import WithAlpha
from longtake.pipeline.upscaling.plan import (
    FootageSegmentSpan,
    UpscalePlan,
    UpscaleSpec,
    WarmUp,
    frames_to_upscale,
    plan_upscale,
)
from longtake.pipeline.weights.options import Numerics

PLAN_NAME = "journal/upscale.json"
"""The plan of the work that was begun last."""


@dataclass(frozen=True)
class Upscaling:
    """One film that is made from footage, with everything that decides its bits. The same in every process."""

    footage: Footage
    plan: UpscalePlan
    store: Store
    numerics: Parts

    @cached_property
    def journal(self) -> FootageSegmentJournal:
        """The finished segments."""
        return FootageSegmentJournal(self.store)

    @cached_property
    def keys(self) -> tuple[FootageSegmentKey, ...]:
        """The key of every segment."""
        spec = self.plan.spec
        parts = {
            **self.numerics,
            "footage": self.footage.fingerprint,
            "scale": spec.scale,
            "codec": spec.codec,
            "quality": self.encoding.quantiser,
            "continuity": str(spec.continuity),
            "chunk_frames": self.plan.grid.chunk_frames,
        }
        if self.has_alpha:
            parts["alpha"] = True
        return tuple(FootageSegmentKey.of(span.frames.start, {**parts, **span.card()}) for span in self.plan.segments)

    @cached_property
    def key(self) -> str:
        """A hash of everything that decides the output."""
        return hash_of({"segments": [key.key for key in self.keys]})

    @property
    def encoding(self) -> FootageEncoding:
        """How segments are encoded."""
        spec = self.plan.spec
        return FootageEncoding(spec.codec, spec.quality, threads=self.numerics["threads"])

    @property
    def has_alpha(self) -> bool:
        """Whether the footage has transparency, and the codec keeps it."""
        return target_of(self.footage, self.encoding).layout.alpha

    def suited(self, model: StreamingUpscaler) -> StreamingUpscaler:
        """The model for this work: it enlarges transparency too if that is kept."""
        return WithAlpha(model) if self.has_alpha else model

    @property
    def approximates(self) -> bool:
        """Whether segments are warmed up over less than the model's history."""
        continuity, grid = self.plan.spec.continuity, self.plan.grid
        return isinstance(continuity, WarmUp) and grid.up(continuity.frames) < grid.history_frames

    def missing(self) -> Iterator[FootageSegmentSpan]:
        """The segments that must be made, in order. Finished ones are read and checked."""
        for span, key in zip(self.plan.segments, self.keys, strict=True):
            if self.journal.segment(key) is None:
                yield span

    def summary(self) -> dict[str, float]:
        """The work in numbers."""
        plan = self.plan
        kept = self.journal.claimed(self.keys)
        frames = {span.frames.start: len(span.frames) for span in plan.segments}
        return {
            "frames": len(plan.frames),
            "passed_frames": plan.num_passed_frames,
            "scenes": len(plan.scenes),
            "segments": len(plan.segments),
            "kept_segments": len(kept),
            "kept_frames": sum(frames[key.start] for key in kept),
            "kept_bytes": sum(kept.values()),
        }

    def card(self) -> dict[str, Any]:
        """The plan as plain values, for the journal."""
        segments = [{**span.card(), "key": key.key} for span, key in zip(self.plan.segments, self.keys, strict=True)]
        return {
            "footage": {"url": self.footage.url, "fingerprint": self.footage.fingerprint},
            "wish": self.plan.spec.card(),
            "numerics": dict(self.numerics),
            "scenes": [[scene.start, scene.stop] for scene in self.plan.scenes],
            "segments": segments,
        }


def open_upscaling(
    footage: Footage, cuts: Sequence[int], spec: UpscaleSpec, store: Store, numerics: Parts, grid: ChunkGrid
) -> Upscaling:
    """Plan the work, with a journal in which finished segments of the same key count. Nothing is written.

    Args:
        cuts: see `cuts_of`.
        numerics: as the function of that name returns them.
        grid: the model's, see `grid_of`.
    """
    plan = plan_upscale(frames_to_upscale(footage, spec), cuts, spec, grid)
    return Upscaling(footage, plan, store, _as_begun(store, numerics))


def _as_begun(store: Store, numerics: Parts) -> Parts:
    """The numerics without what the version that began the work did not record: what it made counts as equal."""
    try:
        begun = json.loads(store.get(PLAN_NAME))["numerics"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return numerics
    return {name: part for name, part in numerics.items() if name in begun or name not in RECORDED_LATER}


def numerics(model: StreamingUpscaler, policy: Numerics = "exact") -> Parts:
    """What decides the output's bits in addition to footage and spec, in this process as it is set up now.

    Args:
        policy: which processors may compute it.
    """
    weights = next(model.parameters())
    parts = process_parts(model.fingerprint(), weights.dtype, weights.device)
    return on_processors({**parts, "numpy": np.__version__, **gpu_parts(weights.device)}, policy)
