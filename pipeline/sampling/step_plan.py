"""Which parts of a chunk's passes are computed, and how the others are predicted: plain data, executed by `StepCache`.

A plan answers, for each denoising step, guidance branch and stream, with one action. A static plan is a table of
actions, written by a method or by `longtake calibrate`; an adaptive plan decides from what is measured in the passes,
which is the same on every rank, so ranks agree without a vote. The clean pass has no step, so no plan applies to it.
The methods and their sources are in `step_methods.py`.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from typing_extensions import override

from longtake.pipeline.errors import SpecError

Basis = Literal["taylor", "chebyshev", "input"]

BlockRange = tuple[int, int]
"""Blocks from one number up to, and without, another one."""


@dataclass(frozen=True)
class Compute:
    """Compute the stream."""


@dataclass(frozen=True)
class Reuse:
    """Skip a range of blocks, and add what they added to the stream in earlier steps.

    Args:
        blocks: the range; None for all blocks.
        order: of the forecast from these steps; 0 takes the last one as it is.
    """

    blocks: BlockRange | None = None
    order: int = 0

    def range(self, num_blocks: int) -> BlockRange:
        """The range, written out."""
        return (0, num_blocks) if self.blocks is None else self.blocks


@dataclass(frozen=True)
class Extrapolate:
    """Predict the stream's velocity from those of earlier steps.

    Args:
        order: of the forecast; 0 takes the last velocity as it is.
        basis: "taylor": finite differences; "chebyshev": a fit of polynomials up to that order; "input": the last
            velocity, moved as far as the latents have moved since.
    """

    order: int = 0
    basis: Basis = "taylor"


@dataclass(frozen=True)
class Freeze:
    """The stream does not move: other streams see the keys and values that it had at each layer, and its velocity is
    not used."""


@dataclass(frozen=True)
class SkipBranch:
    """Skip a guidance branch.

    Args:
        order: predicts the branch's difference to the guided velocity, as `Extrapolate` does; None: the branch has no
            effect in this step.
    """

    order: int | None = None


Action = Compute | Reuse | Extrapolate | Freeze | SkipBranch

ACTIONS: Mapping[str, type[Action]] = {
    "compute": Compute,
    "reuse": Reuse,
    "extrapolate": Extrapolate,
    "freeze": Freeze,
    "skip": SkipBranch,
}
"""The actions by the names that they have in files."""

SWITCHES = ("freezes", "freezes_waiting", "spares_openings")
"""Parts of plans that are on or off."""

COMPUTE = Compute()
GUIDED = "guided"


@dataclass(frozen=True)
class Setting:
    """What a plan is made for: the passes of one chunk.

    Args:
        levels: the noise levels of each stream, step by step, down to 0.
        branches: the guidance branches, "guided" first.
        num_blocks: of the denoiser.
        tokens: of each stream in a pass over a full chunk; text is not counted.
        model: its name.
        switches: steps at which other weights take over, so that nothing may be kept from before.
        skipped: steps that other plans skip in all branches.
    """

    levels: Mapping[str, Sequence[float]]
    branches: tuple[str, ...]
    num_blocks: int
    tokens: Mapping[str, int]
    model: str = "the model"
    switches: tuple[int, ...] = ()
    skipped: frozenset[int] = frozenset()

    @property
    def num_steps(self) -> int:
        """Denoising steps."""
        return len(self.levels["video"]) - 1

    @property
    def computed(self) -> list[int]:
        """The steps that other plans do not skip."""
        return [step for step in range(self.num_steps) if step not in self.skipped]


# ------------------------------------------------------------------ what a plan may measure


@dataclass(frozen=True)
class Probe:
    """Where passes are measured, to decide about the rest of each pass.

    Args:
        at: "condition": what the noise level is embedded as; "modulation": what blocks make of it; "tokens": the tokens
            as they enter the first block; a number: what so many first blocks add to the tokens.
        since_computed: compare with the last pass that was computed, rather than with the last one.
        blocks: those that the decision may skip.
    """

    at: Literal["condition", "modulation", "tokens"] | int
    since_computed: bool
    blocks: BlockRange


@dataclass(frozen=True)
class Moved:
    """Means of absolute values of one stream in one branch, which are the same on every rank.

    Args:
        latents: by how much its latents have changed since the last step.
        latents_then: the same at the last computed step.
        velocity: its last computed velocity.
        velocity_then: by how much that differed from the one before.
    """

    latents: float
    latents_then: float
    velocity: float
    velocity_then: float


class Decisions:
    """What a plan decides for one chunk, step by step. It may remember what it was told."""

    def actions(self, step: int, branch: str, moved: Mapping[str, Moved]) -> Mapping[str, Action]:
        """What to do with each stream; a stream that is left out is computed.

        Args:
            moved: by stream, if the plan asks for it and two steps have been computed.
        """
        del step, branch, moved
        return {}

    def probed(self, step: int, branch: str, changes: Mapping[str, float]) -> Reuse | Compute:
        """What to do with the rest of a pass; see `Plan.probe`.

        Args:
            changes: how much each stream has changed at the probe, in proportion; empty in the first pass.
        """
        del step, branch, changes
        return COMPUTE


class Plan:
    """What a `StepCache` executes.

    Attributes:
        probe: where passes are measured; None: nowhere.
        watches_latents: whether `Decisions.actions` receives what has moved.
        freezes: whether a finished stream is frozen, at noise level 0, once it has been computed there.
        freezes_waiting: whether a stream that waits at a higher noise level is frozen, too.
        spares_openings: whether chunks without a past are computed whole, since small errors change most there.
    """

    probe: Probe | None = None
    watches_latents: bool = False
    freezes: bool = False
    freezes_waiting: bool = False
    spares_openings: bool = False

    def begin(self) -> Decisions:
        """The decisions of one chunk."""
        raise NotImplementedError

    def ranges(self, num_blocks: int) -> Collection[BlockRange]:
        """The block ranges that it may reuse."""
        return () if self.probe is None else (self.probe.blocks,)

    @property
    def history(self) -> int:
        """The most computed steps from which it predicts velocities."""
        return 2 if self.watches_latents else 0

    def freezes_at(self, level: float) -> bool:
        """Whether a stream that stays at a noise level is frozen."""
        return self.freezes_waiting if level else self.freezes

    def holds(self, streams: Collection[str]) -> bool:
        """Whether one of `streams` may be computed while another one is not."""
        del streams
        return self.freezes or self.freezes_waiting

    def work(self, setting: Setting) -> float | None:
        """The share of tokens and blocks that it computes; None if that depends on the film."""
        del setting
        return None


@dataclass(frozen=True)
class Table(Plan, Decisions):
    """A static plan.

    Args:
        rows: by branch, the actions of each step by stream. Streams, branches and steps that are left out are computed.
        freezes, freezes_waiting, spares_openings: see `Plan`.
    """

    rows: Mapping[str, Sequence[Mapping[str, Action]]]
    freezes: bool = False
    freezes_waiting: bool = False
    spares_openings: bool = False

    @override
    def begin(self) -> Decisions:
        return self

    @override
    def actions(self, step: int, branch: str, moved: Mapping[str, Moved]) -> Mapping[str, Action]:
        del moved
        rows = self.rows.get(branch, ())
        return rows[step] if step < len(rows) else {}

    def action(self, step: int, branch: str, stream: str) -> Action:
        """What to do with one stream."""
        return self.actions(step, branch, {}).get(stream, COMPUTE)

    @override
    def ranges(self, num_blocks: int) -> Collection[BlockRange]:
        return sorted({action.range(num_blocks) for action in self._all() if isinstance(action, Reuse)})

    @property
    @override
    def history(self) -> int:
        return max((_needed(action) for action in self._all()), default=0)

    @override
    def holds(self, streams: Collection[str]) -> bool:
        rows = [row for rows in self.rows.values() for row in rows]
        return (
            self.freezes
            or self.freezes_waiting
            or any(len({row.get(stream, COMPUTE) for stream in streams}) > 1 for row in rows)
        )

    @property
    def is_empty(self) -> bool:
        """Whether it computes everything."""
        return not (self.freezes or self.freezes_waiting) and all(isinstance(action, Compute) for action in self._all())

    @override
    def work(self, setting: Setting) -> float:
        done = whole = 0
        for branch in setting.branches:
            for stream, tokens in setting.tokens.items():
                last: float | None = None  # the noise level of the last computed pass
                for step in range(setting.num_steps):
                    level = setting.levels[stream][step]
                    last = None if step in setting.switches else last
                    blocks = (
                        0
                        if last == level and self.freezes_at(level)
                        else _blocks(self.action(step, branch, stream), last is None, setting)
                    )
                    last = level if blocks else last
                    done, whole = done + tokens * blocks, whole + tokens * setting.num_blocks
        return done / whole

    def skipped(self, setting: Setting) -> frozenset[int]:
        """The steps in which no stream is computed in any branch."""
        return frozenset(
            step
            for step in range(setting.num_steps)
            if not any(
                isinstance(self.action(step, branch, stream), Compute | Reuse)
                for branch in setting.branches
                for stream in setting.tokens
            )
        )

    def over(self, other: "Table") -> "Table":
        """Both: where this plan computes a stream, what the other one does with it."""
        branches = self.rows.keys() | other.rows.keys()
        rows = {
            branch: [
                {**other.actions(step, branch, {}), **_not_computed(self.actions(step, branch, {}))}
                for step in range(max(len(self.rows.get(branch, ())), len(other.rows.get(branch, ()))))
            ]
            for branch in sorted(branches)
        }
        return Table(rows, **{name: getattr(self, name) or getattr(other, name) for name in SWITCHES})

    def _all(self) -> Iterator[Action]:
        return (action for rows in self.rows.values() for row in rows for action in row.values())

    # -------------------------------------------------------------- as JSON

    def dump(self) -> dict[str, Any]:
        """The plan in JSON's types."""
        rows = {
            branch: [{stream: _dumped(action) for stream, action in row.items()} for row in rows]
            for branch, rows in self.rows.items()
        }
        return {"rows": rows, **{name: getattr(self, name) for name in SWITCHES}}

    @classmethod
    def load(cls, values: Any) -> Self:
        """The plan that `dump` made. Raises `SpecError` for anything else."""
        try:
            rows = {
                str(branch): [{str(stream): _loaded(action) for stream, action in row.items()} for row in rows]
                for branch, rows in values["rows"].items()
            }
            switches = {name: values.get(name) is True for name in SWITCHES}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise SpecError(f"it holds no table of actions ({error!r}); write it with longtake calibrate") from None
        return cls(rows, **switches)


@dataclass(frozen=True)
class Stacked(Plan):
    """An adaptive plan for what a static one leaves to compute."""

    table: Table
    adaptive: Plan

    def __post_init__(self) -> None:
        for name in ("probe", "watches_latents"):
            object.__setattr__(self, name, getattr(self.adaptive, name))
        for name in SWITCHES:
            object.__setattr__(self, name, getattr(self.table, name) or getattr(self.adaptive, name))

    @override
    def begin(self) -> Decisions:
        return _StackedDecisions(self.table, self.adaptive.begin())

    @override
    def ranges(self, num_blocks: int) -> Collection[BlockRange]:
        return sorted({*self.table.ranges(num_blocks), *self.adaptive.ranges(num_blocks)})

    @property
    @override
    def history(self) -> int:
        return max(self.table.history, self.adaptive.history)

    @override
    def holds(self, streams: Collection[str]) -> bool:
        return self.table.holds(streams) or self.adaptive.holds(streams)


class _StackedDecisions(Decisions):
    def __init__(self, table: Table, adaptive: Decisions) -> None:
        self._table, self._adaptive = table, adaptive

    @override
    def actions(self, step: int, branch: str, moved: Mapping[str, Moved]) -> Mapping[str, Action]:
        own = self._table.actions(step, branch, moved)
        return {**self._adaptive.actions(step, branch, moved), **_not_computed(own)}

    @override
    def probed(self, step: int, branch: str, changes: Mapping[str, float]) -> Reuse | Compute:
        return self._adaptive.probed(step, branch, changes)


def _not_computed(actions: Mapping[str, Action]) -> dict[str, Action]:
    return {stream: action for stream, action in actions.items() if not isinstance(action, Compute)}


def _needed(action: Action) -> int:
    match action:
        case Extrapolate(order, "chebyshev"):
            return 2 * order + 2
        case Extrapolate(order):
            return order + 1
        case SkipBranch(int(order)):
            return order + 1
        case _:
            return 0


def _blocks(action: Action, is_first: bool, setting: Setting) -> int:
    """How many blocks compute a stream."""
    if isinstance(action, Compute) or (is_first and action != SkipBranch()):
        return setting.num_blocks
    if not isinstance(action, Reuse):
        return 0
    start, stop = action.range(setting.num_blocks)
    return setting.num_blocks - (stop - start)


def _dumped(action: Action) -> dict[str, Any]:
    name = next(name for name, kind in ACTIONS.items() if isinstance(action, kind))
    values = {field.name: getattr(action, field.name) for field in fields(action)}
    return {"do": name} | {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def _loaded(values: Mapping[str, Any]) -> Action:
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items() if key != "do"}
    make: Callable[..., Action] = ACTIONS[values["do"]]
    return make(**given)
