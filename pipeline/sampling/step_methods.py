"""Published step caches, and our own, as plans. Each is a few lines over `StepCache`.

A method is a frozen dataclass of its parameters, with the names that a storyboard's `sampling.accelerate` uses, and
makes a plan for a setting. Steps count from 0.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from typing_extensions import override

from longtake.pipeline.errors import SpecError
from longtake.pipeline.sampling.step_plan import (
    COMPUTE,
    GUIDED,
    Action,
    Compute,
    Decisions,
    Extrapolate,
    Moved,
    Plan,
    Probe,
    Reuse,
    Setting,
    SkipBranch,
    Table,
)


class Method(Protocol):
    """A way to make a plan. `registry.METHODS` names them."""

    def plan(self, setting: Setting) -> Plan:
        """The plan for a setting. Raises `SpecError` if its parameters do not fit the setting."""
        ...


def table(
    setting: Setting, action: Callable[[int], Action], branches: Sequence[str] | None = None, freezes: bool = False
) -> Table:
    """The same action for all streams, by step, in some branches or in all."""
    chosen = setting.branches if branches is None else branches
    row = [dict.fromkeys(setting.tokens, action(step)) for step in range(setting.num_steps)]
    return Table(dict.fromkeys(chosen, row), freezes)


def in_rhythm(step: int, every: int, warm_up: int, last: int) -> bool:
    """Whether a step is computed: the first `warm_up`, each `every`-th one after these, and those from `last` on."""
    return step < warm_up or (step + 1 - warm_up) % every == 0 or step >= last


def others(setting: Setting) -> list[str]:
    """The branches that the guided one is compared with."""
    return [branch for branch in setting.branches if branch != GUIDED]


# ------------------------------------------------------------------ guidance


@dataclass(frozen=True)
class GuidanceInterval(Method):
    """Guidance at some noise levels only, of each stream for itself (Kynkäänniemi et al., arXiv 2404.07724).

    Args:
        start, stop: the noise levels between which there is guidance.
    """

    start: float = 1.0
    stop: float = 0.3

    @override
    def plan(self, setting: Setting) -> Plan:
        def action(stream: str, step: int) -> Action:
            return COMPUTE if self.stop <= setting.levels[stream][step] <= self.start else SkipBranch()

        rows = [{name: action(name, step) for name in setting.tokens} for step in range(setting.num_steps)]
        return Table(dict.fromkeys(others(setting), rows))


@dataclass(frozen=True)
class GuidanceDifference(Method):
    """The difference that guidance makes is kept for some steps (as in Lv et al., FasterCache, arXiv 2410.19355,
    without its split into frequencies).

    Args:
        every: computed steps between two that compute it.
        order: of its forecast; 0 keeps it as it is.
        warm_up: first computed steps that compute it.
    """

    every: int = 2
    order: int = 0
    warm_up: int = 2

    @override
    def plan(self, setting: Setting) -> Plan:
        counted = {step: number for number, step in enumerate(setting.computed)}
        last = len(counted) - 1

        def action(step: int) -> Action:
            with_it = step in counted and in_rhythm(counted[step], self.every, self.warm_up, last)
            return COMPUTE if with_it else SkipBranch(self.order)

        return table(setting, action, others(setting))


# ------------------------------------------------------------------ whole passes


@dataclass(frozen=True)
class TaylorSeer(Method):
    """Velocities are forecast by a Taylor series of finite differences (Liu et al., arXiv 2503.06923).

    Args:
        every: steps between two computed ones.
        order: of the series; at 0 the last velocity is reused.
        warm_up: first steps that are computed.
    """

    every: int = 2
    order: int = 1
    warm_up: int = 3

    @override
    def plan(self, setting: Setting) -> Plan:
        last = setting.num_steps - 1

        def action(step: int) -> Action:
            return COMPUTE if in_rhythm(step, self.every, self.warm_up, last) else Extrapolate(self.order)

        return table(setting, action)


@dataclass(frozen=True)
class Spectrum(Method):
    """Velocities are forecast by a ridge fit of Chebyshev polynomials, over gaps that grow (arXiv 2603.01623).

    Args:
        window: steps between the first computed ones after the warm-up.
        flex: by how much each gap is longer than the one before.
        warm_up: first steps that are computed.
        degree: of the polynomials.
    """

    window: float = 2.0
    flex: float = 0.75
    warm_up: int = 5
    degree: int = 4

    @override
    def plan(self, setting: Setting) -> Plan:
        computed, gap, following = set(range(self.warm_up)), self.window, float(self.warm_up - 1)
        while following < setting.num_steps:
            following += gap
            gap += self.flex
            computed.add(int(following))
        return table(setting, lambda step: COMPUTE if step in computed else Extrapolate(self.degree, "chebyshev"))


@dataclass(frozen=True)
class EasyCache(Method):
    """Whole passes are skipped while the predicted change of the velocity adds up to little (Zhou et al., arXiv
    2507.02860).

    Args:
        threshold: of the sum of relative changes.
        warm_up: first steps that are computed.
        start, stop: the parts of all steps between which passes may be skipped.
    """

    threshold: float = 0.05
    warm_up: int = 3
    start: float = 0.15
    stop: float = 0.95

    @override
    def plan(self, setting: Setting) -> Plan:
        first, last = max(self.warm_up, round(self.start * setting.num_steps)), self.stop * setting.num_steps
        return _EasyPlan(self.threshold, range(first, max(first, int(last))))


class _EasyPlan(Plan):
    watches_latents = True

    def __init__(self, threshold: float, steps: range) -> None:
        self.threshold, self.steps = threshold, steps

    @override
    def begin(self) -> Decisions:
        return _EasyDecisions(self)


class _EasyDecisions(Decisions):
    def __init__(self, plan: _EasyPlan) -> None:
        self._plan, self._sum, self._skips = plan, 0.0, False

    @override
    def actions(self, step: int, branch: str, moved: Mapping[str, Moved]) -> Mapping[str, Action]:
        if branch == GUIDED:  # the other branches do what it does
            self._skips = step in self._plan.steps and bool(moved)
            if self._skips:
                self._sum += max(map(_predicted_change, moved.values()))
                self._skips = self._sum < self._plan.threshold
            if not self._skips:
                self._sum = 0.0
        return dict.fromkeys(("video", "audio"), Extrapolate(0, "input")) if self._skips else {}


def _predicted_change(moved: Moved) -> float:
    """The change of a velocity in proportion, if it follows the latents as it did last."""
    if not moved.latents:
        return 0.0
    rate = moved.velocity_then / moved.latents_then if moved.latents_then else float("inf")
    return rate * moved.latents / moved.velocity if moved.velocity else float("inf")


# ------------------------------------------------------------------ all blocks, by a known error


@dataclass(frozen=True)
class MagCache(Method):
    """All blocks are skipped while the residual is known to keep its magnitude (Ma et al., arXiv 2506.09045).

    Args:
        ratios: of the residual's magnitude to that of the step before, measured once, evenly over the steps.
        threshold: of the accumulated error.
        most: steps in a row that may be skipped.
        retention: the part of all steps, at the start, that are computed.
        order: of the residual's forecast; 0 as published.
    """

    ratios: tuple[float, ...] = ()
    threshold: float = 0.06
    most: int = 3
    retention: float = 0.2
    order: int = 0

    @override
    def plan(self, setting: Setting) -> Plan:
        if not self.ratios:
            raise SpecError(
                "magcache has no ratios, which are measured for each model; write a plan with longtake calibrate"
            )
        return self._table(setting, evenly(self.ratios, setting.num_steps))

    def _table(self, setting: Setting, ratios: Sequence[float]) -> Table:
        first, skipped = int(self.retention * setting.num_steps + 0.5), set()
        ratio, error, count = 1.0, 0.0, 0
        for step in range(first, setting.num_steps):
            ratio, count = ratio * ratios[step], count + 1
            error += abs(1 - ratio)
            if step and error <= self.threshold and count <= self.most:
                skipped.add(step)
            else:
                ratio, error, count = 1.0, 0.0, 0
        return table(setting, lambda step: Reuse(order=self.order) if step in skipped else COMPUTE)


def evenly(values: Sequence[float], count: int) -> list[float]:
    """`count` of the values, evenly chosen, the nearest ones."""
    if count == 1:
        return [values[-1]]
    return [values[round(index * (len(values) - 1) / (count - 1))] for index in range(count)]


@dataclass(frozen=True)
class TeaCache(Method):
    """All blocks are skipped while the input's changes, rescaled by a polynomial, add up to little (Liu et al., arXiv
    2411.19108).

    Args:
        polynomial: from the change of the input to that of the output, highest power first.
        threshold: of the sum.
        at: what is measured; see `Probe`.
        start: steps that are computed first.
        stop: how many steps are computed last.
    """

    polynomial: tuple[float, ...] = (1.0, 0.0)
    threshold: float = 0.1
    at: str = "condition"
    start: int = 1
    stop: int = 1

    @override
    def plan(self, setting: Setting) -> Plan:
        places = ("condition", "modulation", "tokens")
        if self.at not in places:
            raise SpecError(f"at is {self.at!r}; use {', '.join(places)}")
        steps = range(self.start, max(self.start, setting.num_steps - self.stop))
        return _ProbedPlan(
            Probe(cast(Any, self.at), False, (0, setting.num_blocks)),
            lambda: _Accumulated(self.threshold, steps, self.polynomial),
        )


@dataclass(frozen=True)
class FBCache(Method):
    """All blocks but the first are skipped while what that adds changes little (Cheng, ParaAttention's first block
    cache).

    Args:
        threshold: of the relative change since the last computed pass.
        start: steps that are computed first.
    """

    threshold: float = 0.08
    start: int = 1

    @override
    def plan(self, setting: Setting) -> Plan:
        return DBCache(front=1, back=0, threshold=self.threshold, start=self.start).plan(setting)


@dataclass(frozen=True)
class DBCache(Method):
    """The blocks between the first and the last ones are skipped while what the first add changes little (cache-dit's
    dual block cache).

    Args:
        front, back: blocks that are always computed.
        threshold: of the relative change since the last computed pass.
        start: steps that are computed first.
        most: steps in a row that may be skipped; 0: any number.
        order: of the forecast of what the skipped blocks add; 0: the last value.
    """

    front: int = 8
    back: int = 0
    threshold: float = 0.08
    start: int = 8
    most: int = 0
    order: int = 0

    @override
    def plan(self, setting: Setting) -> Plan:
        if not 0 < self.front < setting.num_blocks - self.back:
            raise SpecError(
                f"front is {self.front} and back {self.back}; {setting.model or 'the model'} has {setting.num_blocks}"
                " blocks, leave some between them"
            )
        blocks = (self.front, setting.num_blocks - self.back)
        action = Reuse(blocks, self.order)
        return _ProbedPlan(
            Probe(self.front, True, blocks), lambda: _Alike(self.threshold, self.start, self.most, action)
        )


class _ProbedPlan(Plan):
    """A plan that measures each pass.

    Args:
        make: the decisions of one chunk.
    """

    def __init__(self, probe: Probe, make: Callable[[], Decisions]) -> None:
        self.probe, self._make = probe, make

    @override
    def begin(self) -> Decisions:
        return self._make()


class _Accumulated(Decisions):
    """Skips all blocks while a sum of rescaled changes is below a threshold, in each branch for itself."""

    def __init__(self, threshold: float, steps: range, polynomial: Sequence[float]) -> None:
        self._threshold, self._steps, self._polynomial = threshold, steps, polynomial
        self._sums: dict[str, float] = {}

    @override
    def probed(self, step: int, branch: str, changes: Mapping[str, float]) -> Reuse | Compute:
        if step in self._steps and changes:
            added = max(abs(polynomial(self._polynomial, change)) for change in changes.values())
            self._sums[branch] = self._sums.get(branch, 0.0) + added
            if self._sums[branch] < self._threshold:
                return Reuse()
        self._sums[branch] = 0.0
        return COMPUTE


def polynomial(coefficients: Sequence[float], x: float) -> float:
    """The value of a polynomial, highest power first."""
    value = 0.0
    for coefficient in coefficients:
        value = value * x + coefficient
    return value


class _Alike(Decisions):
    """Does `action` while the change since the last computed pass is below a threshold, in each branch for itself."""

    def __init__(self, threshold: float, start: int, most: int, action: Reuse) -> None:
        self._threshold, self._start, self._most, self._action = threshold, start, most, action
        self._skipped: dict[str, int] = {}

    @override
    def probed(self, step: int, branch: str, changes: Mapping[str, float]) -> Reuse | Compute:
        alike = bool(changes) and step >= self._start and max(changes.values()) <= self._threshold
        count = self._skipped.get(branch, 0) + 1
        if alike and (not self._most or count <= self._most):
            self._skipped[branch] = count
            return self._action
        self._skipped[branch] = 0
        return COMPUTE


# ------------------------------------------------------------------ block ranges, by step


@dataclass(frozen=True)
class DeltaDiT(Method):
    """What a range of blocks adds is kept for some steps: rear blocks in the first steps, front blocks in the later
    ones (Chen et al., arXiv 2406.01125).

    Args:
        every: steps between two that compute everything.
        boundary: the part of all steps after which front blocks are skipped.
        blocks: the part of the blocks that is skipped.
        warm_up: first steps that are computed.
    """

    every: int = 2
    boundary: float = 0.5
    blocks: float = 0.6
    warm_up: int = 2

    @override
    def plan(self, setting: Setting) -> Plan:
        count, last = max(1, round(self.blocks * setting.num_blocks)), setting.num_steps - 1
        rear, front = (setting.num_blocks - count, setting.num_blocks), (0, count)

        def action(step: int) -> Action:
            if in_rhythm(step, self.every, self.warm_up, last):
                return COMPUTE
            return Reuse(rear if step < self.boundary * setting.num_steps else front)

        return table(setting, action)


@dataclass(frozen=True)
class FasterDiffusion(Method):
    """What the front blocks add is kept between key steps, which are rare in the middle (Li et al., arXiv 2312.09608;
    its encoder is the front half of a transformer here).

    Args:
        blocks: the part of the blocks that counts as front.
        every: steps between two key steps, in the middle third of the steps; a third of that before and after it.
    """

    blocks: float = 0.5
    every: int = 3

    @override
    def plan(self, setting: Setting) -> Plan:
        num_steps, front = setting.num_steps, (0, max(1, round(self.blocks * setting.num_blocks)))

        def action(step: int) -> Action:
            middle = num_steps <= 3 * step < 2 * num_steps
            every = self.every if middle else max(2, self.every // 2)
            return COMPUTE if step % every == 0 or step == num_steps - 1 else Reuse(front)

        return table(setting, action)


@dataclass(frozen=True)
class SmoothCache(Method):
    """All blocks are skipped as long as a calibrated error stays below a limit (Liu et al., arXiv 2411.10510).

    Args:
        errors: by lag from 1 on, the relative error of each step if the residual of so many steps before is reused.
        limit: of that error; alpha.
        order: of the residual's forecast; 0 as published.
    """

    errors: tuple[tuple[float, ...], ...] = ()
    limit: float = 0.1
    order: int = 0

    @override
    def plan(self, setting: Setting) -> Plan:
        if not self.errors:
            raise SpecError(
                "smoothcache has no errors, which are measured for each model; write a plan with longtake calibrate"
            )
        skipped, last = set(), 0
        for step in range(1, setting.num_steps - 1):
            lag = step - last
            if lag <= len(self.errors) and evenly(self.errors[lag - 1], setting.num_steps)[step] <= self.limit:
                skipped.add(step)
            else:
                last = step
        return table(setting, lambda step: Reuse(order=self.order) if step in skipped else COMPUTE)


@dataclass(frozen=True)
class MixCache(Method):
    """After a warm-up, each step reuses the most that was measured to matter little: a whole step, the difference of
    guidance, or a range of blocks (Wei et al., arXiv 2508.12691; the choice by a limit is ours).

    Args:
        step_errors, guidance_errors, block_errors: by step, the relative error of the guided velocity if each of them
            is taken from the step before.
        limit: of the error that a step may make.
        blocks: the range whose reuse was measured.
        warm_up: first steps that are computed.
        most: steps in a row that may reuse something.
    """

    step_errors: tuple[float, ...] = ()
    guidance_errors: tuple[float, ...] = ()
    block_errors: tuple[float, ...] = ()
    limit: float = 0.1
    blocks: tuple[int, int] = (0, 0)
    warm_up: int = 3
    most: int = 2

    @override
    def plan(self, setting: Setting) -> Plan:
        if not self.step_errors:
            raise SpecError(
                "mixcache has no errors, which are measured for each model; write a plan with longtake calibrate"
            )
        rows: dict[str, list[dict[str, Action]]] = {branch: [] for branch in setting.branches}
        count = 0
        for step in range(setting.num_steps):
            free = self.warm_up <= step < setting.num_steps - 1 and count < self.most
            chosen = self._chosen(setting, step) if free else "nothing"
            count = 0 if chosen == "nothing" else count + 1
            for branch, row in rows.items():
                action: Action = COMPUTE
                if chosen == "step":
                    action = Extrapolate()
                elif chosen == "guidance" and branch != GUIDED:
                    action = SkipBranch(0)
                elif chosen == "blocks":
                    action = Reuse(self.blocks)
                row.append(dict.fromkeys(setting.tokens, action))
        return Table(rows)

    def _chosen(self, setting: Setting, step: int) -> str:
        """What is reused in a step: the most work whose error is allowed, if that is anything."""
        share = (self.blocks[1] - self.blocks[0]) / setting.num_blocks
        away = len(others(setting)) / len(setting.branches)
        options = [("step", self.step_errors, 1.0), ("guidance", self.guidance_errors, away)]
        options.append(("blocks", self.block_errors, share))
        allowed = [
            (work, name)
            for name, errors, work in options
            if errors and work and evenly(errors, setting.num_steps)[step] <= self.limit
        ]
        return max(allowed, default=(0.0, "nothing"))[1]


# ------------------------------------------------------------------ streams


@dataclass(frozen=True)
class FreezeStreams(Method):
    """A finished stream is not computed: other streams see the keys and values that it has at each layer. It takes
    effect where one stream's denoising lags behind another's, and where all of a stream is given.

    Args:
        waiting: freeze a stream that has yet to begin, too: 1 or 0.
    """

    waiting: int = 0

    @override
    def plan(self, setting: Setting) -> Plan:
        del setting
        return Table({}, freezes=True, freezes_waiting=self.waiting > 0)


@dataclass(frozen=True)
class SpareOpenings(Method):
    """The first chunk after each cut is computed whole: without a past, small errors change it most."""

    @override
    def plan(self, setting: Setting) -> Plan:
        del setting
        return Table({}, spares_openings=True)
