"""What a step plan costs and saves, measured on a model's own passes: the input of `longtake calibrate`.

Chunks are rendered with nothing skipped, and `Rehearsal` records how much everything changes from step to step. A
forecast is a sum of earlier velocities, so its error at any step, from any earlier steps, is known without another
pass. In the latents it counts as much as the step is long. `best_table` then chooses the computed steps with the least
error for their work, by dynamic programming.

Shapes: n steps, b batch, f latent frames, s tokens of each, d their width, h heads, l tokens of one stream.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from longtake.pipeline.attention.context import QKV, AttentionContext, Meeting, Pass, Site
from longtake.pipeline.models.blocks import Total, run_blocks
from longtake.pipeline.models.branches import Velocities
from longtake.pipeline.models.protocols import Block, Stream, Tokens
from longtake.pipeline.sampling.forecast import taylor
from longtake.pipeline.sampling.guidance import Guidance
from longtake.pipeline.sampling.step_cache import StepCache
from longtake.pipeline.sampling.step_plan import GUIDED, Action, Extrapolate, Setting, SkipBranch, Table

Floats = NDArray[np.float64]

LAGS = 3
"""The longest distance in steps over which residuals are compared, as in SmoothCache."""

ORDER = 1
"""Of the forecasts of calibrated plans: higher ones were no better on the built-in model."""


@dataclass(frozen=True)
class Recorded:
    """One step.

    Args:
        velocities: of all branches together, by stream.
        guidance: what of it the branches other than the guided one have added.
    """

    velocities: Velocities
    guidance: Velocities


@dataclass
class Changes:
    """Relative changes from step to step, by branch and stream, as means over chunks.

    Args:
        residuals: by lag from 1 on and step: mean |o_t - o_(t-lag)| / |o_t| of what all blocks add.
        ratios: by step: the magnitude of that over the one of the step before (MagCache).
        blocks: by step and block: change of what each block adds since the step before.
        keys, values: by step and layer: the same of keys and values, at sites where the stream has some.
    """

    residuals: list[list[float]] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    blocks: list[list[float]] = field(default_factory=list)
    keys: list[list[float]] = field(default_factory=list)
    values: list[list[float]] = field(default_factory=list)


class Rehearsal(StepCache):
    """Computes everything, and records how it changes; for one chunk at a time.

    Args:
        guidance: that combines the velocities.
    """

    def __init__(self, guidance: Guidance) -> None:
        super().__init__()
        self._guidance = guidance

    @override
    def begin(self, opens: bool = False) -> None:
        super().begin(opens)
        self.recorded: list[Recorded] = []
        self.changes: dict[tuple[str, str], Changes] = {}
        self._before: dict[tuple[str, str], list[tuple[Tensor, list[Tensor]]]] = {}
        self._keys: dict[str, dict[tuple[Site, str], QKV]] = {}

    @override
    def completed(
        self, step: int, velocities: Mapping[str, Velocities], streams: Mapping[str, Stream]
    ) -> Mapping[str, Velocities]:
        combined, guided = self._guidance.combine(velocities, streams), velocities[GUIDED]
        self.recorded.append(Recorded(combined, {name: x - guided[name] for name, x in combined.items()}))
        return velocities

    @override
    def run(
        self,
        blocks: Iterable[Block],
        tokens: Mapping[str, Tokens],
        context: AttentionContext,
        this: Pass,
        total: Total,
    ) -> Mapping[str, Tokens]:
        if this.step is None:
            return run_blocks(blocks, tokens, context)
        watched = _Watched(context)
        after = [tokens]
        for layer, block in enumerate(blocks):
            after.append(block(after[-1], watched, layer))
        for name in tokens:
            added = [late[name].x - early[name].x for early, late in pairwise(after)]
            self._record(this.branch, name, after[-1][name].x - tokens[name].x, added)
        self._record_keys(this.branch, watched.seen)
        return after[-1]

    def _record(self, branch: str, stream: str, residual: Tensor, added: list[Tensor]) -> None:
        changes = self.changes.setdefault((branch, stream), Changes())
        before = self._before.setdefault((branch, stream), [])
        changes.residuals.append([_change(residual, kept) for kept, _ in reversed(before)])
        if before:
            last, blocks = before[-1]
            sizes = residual.norm(dim=-1) / (last.norm(dim=-1) + 1e-8)
            changes.ratios.append(float(sizes.mean()))
            changes.blocks.append([_change(now, then) for now, then in zip(added, blocks, strict=True)])
        else:
            changes.ratios.append(1.0)
        self._before[branch, stream] = [*before, (residual, added)][-LAGS:]

    def _record_keys(self, branch: str, seen: dict[tuple[Site, str], QKV]) -> None:
        before = self._keys.get(branch)
        self._keys[branch] = seen
        if before is None:
            return
        for stream in dict.fromkeys(name for _, name in seen):
            pairs = [(seen[key], before[key]) for key in seen if key[1] == stream]
            changes = self.changes[branch, stream]
            changes.keys.append([_change(now.k, then.k) for now, then in pairs])
            changes.values.append([_change(now.v, then.v) for now, then in pairs])


class _Watched(AttentionContext):
    """A context that remembers the keys and values that it is given."""

    def __init__(self, context: AttentionContext) -> None:
        self._context = context
        self.seen: dict[tuple[Site, str], QKV] = {}

    @override
    def attend(self, site: Site, streams: Meeting, positions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        for name, stream in streams.items():
            if isinstance(stream, QKV) and name in positions and stream.k.shape[2]:
                self.seen[site, name] = stream
        return self._context.attend(site, streams, positions)

    @override
    def silent(self, layer: int) -> tuple[str, ...]:
        return self._context.silent(layer)


def _change(now: Tensor, then: Tensor) -> float:
    return float((now - then).abs().sum() / now.abs().sum().clamp(min=torch.finfo(now.dtype).tiny))


# ------------------------------------------------------------------ errors of forecasts


@dataclass(frozen=True)
class RecordedChunk:
    """The steps of one chunk, and the norms of its finished latents by stream."""

    steps: Sequence[Recorded]
    sizes: Mapping[str, float]


class ForecastErrors:
    """The errors that forecasts would make in the finished latents, as means over chunks, in proportion.

    Args:
        chunks: what was recorded.
        setting: the passes.
    """

    def __init__(self, chunks: Sequence[RecordedChunk], setting: Setting) -> None:
        self._setting = setting
        self._sizes = {name: [chunk.sizes[name] for chunk in chunks] for name in setting.tokens}
        self._products = {
            (name, differs): [
                _products([(step.guidance if differs else step.velocities)[name] for step in chunk.steps])
                for chunk in chunks
            ]
            for name in setting.tokens
            for differs in (False, True)
        }

        self._gains: Sequence[float] = [1.0] * setting.num_steps
        self._known: dict[tuple[tuple[int, ...], int, bool], float] = {}

    def of(self, known: tuple[int, ...], step: int, *, differs: bool = False) -> float:
        """The error at `step` of a forecast from the `known` steps, ascending: of the velocity, or of what guidance
        adds to it."""
        key = (known[-ORDER - 1 :], step, differs)
        if key not in self._known:
            errors = sum(self._of_stream(name, *key) for name in self._setting.tokens)
            self._known[key] = self._gains[step] * errors
        return self._known[key]

    def with_gains(self, gains: Sequence[float]) -> "ForecastErrors":
        """The same, if an error at each step grows so much until the latents are finished."""
        other = copy(self)
        other._gains, other._known = gains, {}
        return other

    def _of_stream(self, name: str, known: tuple[int, ...], step: int, differs: bool) -> float:
        levels = self._setting.levels[name]
        length = levels[step] - levels[step + 1]
        if not length:
            return 0.0
        weights = taylor([float(each) for each in known], step, ORDER)
        used, signs = [*known, step], np.array([*weights, -1.0])
        norms = (
            max(float(signs @ each[np.ix_(used, used)] @ signs), 0.0) ** 0.5 for each in self._products[name, differs]
        )
        return length * fmean(norm / size for norm, size in zip(norms, self._sizes[name], strict=True))


def _products(steps: Sequence[Tensor]) -> Floats:
    """Products of the tensors of all steps with each other, [n n]."""
    rows = torch.stack([x.flatten().double() for x in steps])
    products: Floats = (rows @ rows.T).cpu().numpy()
    return products


# ------------------------------------------------------------------ plans


def best_table(errors: ForecastErrors, setting: Setting, budget: float) -> Table | None:
    """The table that does at most `budget` of the work with the least error, as far as is known; None if there are too
    few steps for so little work."""
    low, high, best = 0.0, 100.0, None
    for _ in range(30):
        price = (low * high) ** 0.5 if low else high / 2
        table = _cheapest(errors, setting, price)
        if table.work(setting) <= budget:
            best, high = table, price
        else:
            low = price
        if low and high / low < 1.01:
            break
    return best


def _cheapest(errors: ForecastErrors, setting: Setting, price: float) -> Table:
    """The table with the least error + price x work."""
    work = _work_of_steps(setting)
    every = range(setting.num_steps)
    first = [step for step in every if step <= ORDER or step in setting.switches or step - 1 in setting.switches]
    computed = _chosen(every, first, errors.of, [price * each for each in work])
    rows: dict[str, list[dict[str, Action]]] = {
        branch: [dict.fromkeys(setting.tokens, Extrapolate(ORDER)) if step not in computed else {} for step in every]
        for branch in setting.branches
    }
    if len(setting.branches) > 1:
        share = (len(setting.branches) - 1) / len(setting.branches)
        both = _chosen(
            every,
            first,
            lambda known, step: errors.of(known, step, differs=True),
            [price * share * each if step in computed else float("inf") for step, each in enumerate(work)],
        )
        for branch in setting.branches[1:]:
            rows[branch] = [{} if step in both else dict.fromkeys(setting.tokens, SkipBranch(ORDER)) for step in every]
    return Table(rows, freezes=True, spares_openings=True)


def _work_of_steps(setting: Setting) -> list[float]:
    """The share of all work that computing each step costs, with finished streams frozen."""
    whole = setting.num_steps * sum(setting.tokens.values())
    found = []
    for step in range(setting.num_steps):
        moving = [
            tokens
            for name, tokens in setting.tokens.items()
            if not step or setting.levels[name][step] or setting.levels[name][step - 1]
        ]
        found.append(sum(moving) / whole)
    return found


def _chosen(
    every: range, first: Sequence[int], error: Callable[[tuple[int, ...], int], float], prices: Sequence[float]
) -> set[int]:
    """The steps to compute: the least sum of the errors of all others and the prices of these.

    Args:
        first: steps that are computed in any case.
    """
    last = every[-1]

    @cache
    def between(known: tuple[int, ...], following: int) -> float:
        return sum(error(known, step) for step in range(known[-1] + 1, following))

    @cache
    def rest(known: tuple[int, ...]) -> tuple[float, tuple[int, ...]]:
        """Error and price of all steps after `known`, the last computed ones, and which of them are computed."""
        options = [(between(known, last + 1), ())] if not any(step > known[-1] for step in first) else []
        found: list[tuple[float, tuple[int, ...]]] = list(options)
        for step in range(known[-1] + 1, last + 1):
            if prices[step] < float("inf") or step in first:
                price = prices[step] if prices[step] < float("inf") else 0.0
                cost, later = rest((*known, step)[-ORDER - 1 :])
                found.append((between(known, step) + price + cost, (step, *later)))
            if step in first:
                break
        return min(found)

    return {0, *rest((0,))[1]}
