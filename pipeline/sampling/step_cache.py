"""The loop that executes step plans: of passes, in the rollout engines, and of blocks, inside the denoiser.

    actions -> each branch's pass runs, whole or in part, or does not run -> its velocities are completed -> remembered

State lives for one chunk. It is kept by branch and stream: velocities, and what block ranges added to the tokens of
this rank. Everything that decides is the same on every rank: steps, noise levels, latents, velocities, and sums over
the tokens of all ranks.

Shapes: b batch, f latent frames, s tokens of each, d their width.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from typing_extensions import override

from longtake.pipeline.attention.context import AttentionContext, Held, Pass
from longtake.pipeline.models.blocks import BlockRunner, Total, run_blocks
from longtake.pipeline.models.branches import Velocities
from longtake.pipeline.models.protocols import Block, Stream, Tokens
from longtake.pipeline.sampling.forecast import History
from longtake.pipeline.sampling.step_plan import (
    COMPUTE,
    GUIDED,
    Action,
    BlockRange,
    Compute,
    Extrapolate,
    Freeze,
    Moved,
    Plan,
    Probe,
    Reuse,
    Setting,
    SkipBranch,
    Table,
)

Actions = Mapping[str, Action]
"""What is done with each stream of a pass."""

COMPUTED: Actions = {"video": COMPUTE}
"""A pass that is computed as a whole."""

EVERYTHING = Table({})
"""The plan that computes everything."""

MOST_ORDER = 3
"""Of forecasts of block ranges, each of which needs one more value in memory."""


@dataclass
class Work:
    """Tokens that went through blocks, and tokens that would have without a plan, on all ranks."""

    done: int = 0
    whole: int = 0

    @property
    def share(self) -> float:
        """Done over whole."""
        return self.done / self.whole if self.whole else 1.0


@dataclass
class _StreamState:
    """What one branch remembers of one stream.

    Args:
        velocities: those that were computed, and `inputs` the latents that they were computed for.
        differences: of the velocities to the guided ones.
        residuals: what each block range added to this rank's tokens.
        probe: what was measured last.
        levels: the noise levels [1 f] of the last computed pass; None before the first one.
    """

    velocities: History
    inputs: History
    differences: History
    residuals: dict[BlockRange, History] = field(default_factory=dict)
    probe: Tensor | None = None
    levels: Tensor | None = None


class StepCache(BlockRunner):
    """Executes a plan, chunk by chunk.

    Args:
        plan: what is computed.
        setting: what it was made for; not needed for `EVERYTHING`.
    """

    def __init__(self, plan: Plan = EVERYTHING, setting: Setting | None = None) -> None:
        assert plan is EVERYTHING or setting is not None, "a plan is made for a setting"
        self.plan, self.work = plan, Work()
        self._setting = setting or Setting({}, (), 0, {})
        self._whole_pass = 0
        self.begin()

    def begin(self, opens: bool = False) -> None:
        """Forget everything: a chunk begins, or a part of it that is denoised again.

        Args:
            opens: whether the chunk has no past.
        """
        self._is_idle = self.plan is EVERYTHING or (opens and self.plan.spares_openings)
        self._decisions = self.plan.begin()
        self._states: dict[tuple[str, str], _StreamState] = {}
        self._moving: dict[str, tuple[Tensor, float]] = {}
        self._actions: dict[str, Actions] = {}

    # -------------------------------------------------------------- passes

    def actions(self, step: int, branches: Iterable[str], streams: Mapping[str, Stream]) -> dict[str, Actions]:
        """What is done in one step, by branch and stream; the same on every rank."""
        if self._is_idle:
            return dict.fromkeys(branches, COMPUTED)
        if step in self._setting.switches:
            self.begin()
        streams = {name: stream for name, stream in streams.items() if name in self._setting.tokens}
        if self.plan.watches_latents:
            self._moving = {name: self._step_of(name, stream.latents) for name, stream in streams.items()}
        self._actions = {branch: self._of_branch(step, branch, streams) for branch in branches}
        for branch, actions in self._actions.items():
            if not is_run(actions):
                self.work.whole += self._whole_pass
            for name, action in actions.items():
                if isinstance(action, Compute | Reuse):
                    self._state(branch, name).levels = streams[name].host_sigma
        return self._actions

    def _of_branch(self, step: int, branch: str, streams: Mapping[str, Stream]) -> Actions:
        states = {name: self._state(branch, name) for name in streams}
        wanted = self._decisions.actions(step, branch, self._moved(states) if self.plan.watches_latents else {})
        found = {name: self._possible(wanted.get(name, COMPUTE), states[name], streams[name]) for name in streams}
        absent = [name for name, action in found.items() if not isinstance(action, Compute | Reuse)]
        if is_run(found) and any(states[name].levels is None for name in absent):
            return dict.fromkeys(streams, COMPUTE)  # the streams that are computed need the keys of the others
        return found

    def _possible(self, action: Action, state: _StreamState, stream: Stream) -> Action:
        """The action, or to compute the stream if what the action needs is not known yet."""
        # A stream whose noise level stays the same does not move, so its input is that of its last computed pass.
        before, now = state.levels, stream.host_sigma
        if before is not None and torch.equal(before, now) and self.plan.freezes_at(float(now.max())):
            return Freeze()
        match action:
            case Extrapolate() if not state.velocities:
                return COMPUTE
            case SkipBranch(int()) if not state.differences:
                return COMPUTE
            case Freeze() | Reuse() if state.levels is None:
                return COMPUTE
            case _:
                return action

    def velocities(
        self, step: int, branch: str, streams: Mapping[str, Stream], computed: Velocities
    ) -> dict[str, Tensor]:
        """The velocities of a branch: those that its pass has computed, and predictions of the others; a skipped branch
        counts as zero until it is `completed`. With a plan they have the precision of the latents, on all ranks."""
        if self._is_idle:
            return dict(computed)
        return {
            name: computed[name].to(stream.latents.dtype)
            if name in computed
            else self._predicted(step, branch, name, stream)
            for name, stream in streams.items()
        }

    def completed(
        self, step: int, velocities: Mapping[str, Velocities], streams: Mapping[str, Stream]
    ) -> Mapping[str, Velocities]:
        """The velocities of all branches; of skipped ones, those that follow from the guided branch. What later steps
        need of them is kept."""
        guided = velocities[GUIDED]
        for branch, actions in self._actions.items():
            skipped = {name: action for name, action in actions.items() if isinstance(action, SkipBranch)}
            if skipped:
                from_guided = {
                    name: guided[name]
                    if action.order is None
                    else guided[name] + self._state(branch, name).differences.forecast(step, action.order)
                    for name, action in skipped.items()
                }
                velocities = {**velocities, branch: {**velocities[branch], **from_guided}}
            if self.plan.history:
                self._keep(step, branch, velocities, streams)
        return velocities

    def _keep(
        self, step: int, branch: str, velocities: Mapping[str, Velocities], streams: Mapping[str, Stream]
    ) -> None:
        for name, action in self._actions[branch].items():
            if isinstance(action, Compute):
                state, own = self._state(branch, name), velocities[branch][name]
                state.velocities.add(step, own)
                state.inputs.add(step, streams[name].latents)
                if branch != GUIDED and isinstance(self._actions[GUIDED].get(name), Compute):
                    state.differences.add(step, own - velocities[GUIDED][name])

    def _predicted(self, step: int, branch: str, name: str, stream: Stream) -> Tensor:
        state = self._state(branch, name)
        match self._actions[branch].get(name):
            case Extrapolate(_, "input"):
                return state.velocities.last + (stream.latents - state.inputs.last)
            case Extrapolate(order, basis):
                return state.velocities.forecast(step, order, basis, self._setting.num_steps)
            case _:
                return torch.zeros_like(stream.latents)

    def _state(self, branch: str, stream: str) -> _StreamState:
        if (branch, stream) not in self._states:
            length = self.plan.history
            self._states[branch, stream] = _StreamState(History(length), History(length), History(length))
        return self._states[branch, stream]

    def _step_of(self, name: str, latents: Tensor) -> tuple[Tensor, float]:
        """Latents, and by how much they have changed since the last step."""
        before = self._moving.get(name)
        return latents, 0.0 if before is None else _mean(latents - before[0])

    def _moved(self, states: Mapping[str, _StreamState]) -> dict[str, Moved]:
        found = {}
        for name, state in states.items():
            if len(state.velocities) > 1:
                inputs, outputs = state.inputs, state.velocities
                found[name] = Moved(
                    latents=self._moving[name][1],
                    latents_then=_mean(inputs.last - inputs.before),
                    velocity=_mean(outputs.last),
                    velocity_then=_mean(outputs.last - outputs.before),
                )
        return found

    # -------------------------------------------------------------- blocks

    @override
    def run(
        self,
        blocks: Iterable[Block],
        tokens: Mapping[str, Tokens],
        context: AttentionContext,
        this: Pass,
        total: Total,
    ) -> Mapping[str, Tokens]:
        if this.step is None or self._is_idle:
            return run_blocks(blocks, tokens, context)
        actions = self._actions.get(this.branch) or dict.fromkeys(tokens, COMPUTE)
        layers = list(blocks)
        loop = _Blocks(
            step=this.step,
            num_blocks=len(layers),
            lengths={name: _length(stream) for name, stream in tokens.items()},
            states={name: self._state(this.branch, name) for name in tokens},
            ranges=self.plan.ranges(len(layers)),
            live={n: x for n, x in tokens.items() if isinstance(actions.get(n, COMPUTE), Compute | Reuse)},
            skipped={n: each for n, each in actions.items() if isinstance(each, Reuse) and n in tokens},
        )
        for layer, block in enumerate(layers):
            if (probe := self.plan.probe) is not None and layer == (probe.at if isinstance(probe.at, int) else 0):
                loop.decide(probe, lambda changes: self._decisions.probed(this.step or 0, this.branch, changes), total)
            loop.enter(layer)
            self.work.done += loop.through(layer, block, context)
            loop.leave(layer + 1)
        self._whole_pass = len(layers) * sum(loop.lengths.values())
        self.work.whole += self._whole_pass
        return loop.live


@dataclass
class _Blocks:
    """One pass through the blocks, in which streams may skip ranges of them.

    Args:
        lengths: tokens of each whole stream, of those that the pass leaves out, too.
        ranges: those whose residuals are kept.
        live: the streams of which velocities are computed: this rank's tokens at the present block.
        skipped: the streams that skip a range.
    """

    step: int
    num_blocks: int
    lengths: Mapping[str, int]
    states: Mapping[str, _StreamState]
    ranges: Collection[BlockRange]
    live: dict[str, Tokens]
    skipped: dict[str, Reuse]
    _before: dict[str, Tensor] = field(default_factory=dict)
    _entered: dict[tuple[BlockRange, str], Tensor] = field(default_factory=dict)

    def enter(self, layer: int) -> None:
        """Remember the tokens with which ranges begin."""
        if not layer:
            self._before = {name: tokens.x for name, tokens in self.live.items()}
        for each in self.ranges:
            if each[0] == layer:
                self._entered |= {(each, name): tokens.x for name, tokens in self.live.items()}

    def through(self, layer: int, block: Block, context: AttentionContext) -> int:
        """Run a block for the streams that do not skip it; returns the number of tokens of these streams."""
        running = {name: tokens for name, tokens in self.live.items() if not self._skips(name, layer)}
        if not running:
            return 0
        absent = {name: length for name, length in self.lengths.items() if name not in running}
        self.live |= block(running, Held(context, absent) if absent else context, layer)
        return sum(self.lengths[name] for name in running)

    def leave(self, layer: int) -> None:
        """Keep what a range has added that ends before `layer`, or add what it added before."""
        for each in self.ranges:
            if each[1] != layer:
                continue
            for name, tokens in self.live.items():
                entered, reused = self._entered[each, name], self.skipped.get(name)
                residuals = self.states[name].residuals.setdefault(each, History(MOST_ORDER + 1))
                if reused is not None and reused.range(self.num_blocks) == each:
                    forecast = residuals.forecast(self.step, reused.order)
                    self.live[name] = replace(tokens, x=entered + forecast)
                elif not any(self._skips(name, block) for block in range(*each)):
                    residuals.add(self.step, tokens.x - entered)

    def decide(self, probe: Probe, decide: Callable[[Mapping[str, float]], Reuse | Compute], total: Total) -> None:
        """Measure the streams, and let the plan decide about the blocks that follow."""
        measured = {name: self._signal(probe, name) for name in self.live if name not in self.skipped}
        known = {name: x for name, x in measured.items() if self.states[name].probe is not None}
        changes = {}
        for name, x in known.items():
            before = self.states[name].probe
            assert before is not None
            sums = total(name, torch.stack(((x - before).abs().sum(), before.abs().sum())))
            change, size = sums.tolist()
            changes[name] = change / max(size, torch.finfo(x.dtype).tiny)
        action = decide(changes)
        if isinstance(action, Reuse) and measured.keys() == known.keys():
            self.skipped |= dict.fromkeys(measured, action)
        for name, x in measured.items():
            if not probe.since_computed or not isinstance(action, Reuse):
                self.states[name].probe = x

    def _signal(self, probe: Probe, name: str) -> Tensor:
        tokens = self.live[name]
        match probe.at:
            case "condition":
                return tokens.condition
            case "modulation":
                return tokens.modulation
            case "tokens":
                return tokens.x
            case _:
                return tokens.x - self._before[name]

    def _skips(self, name: str, layer: int) -> bool:
        reused = self.skipped.get(name)
        if reused is None:
            return False
        start, stop = reused.range(self.num_blocks)
        return start <= layer < stop


def is_run(actions: Actions) -> bool:
    """Whether a pass is run at all."""
    return any(isinstance(action, Compute | Reuse) for action in actions.values())


def _length(tokens: Tokens) -> int:
    frames, size, _ = tokens.positions.shape
    return frames * size


def _mean(x: Tensor) -> float:
    return float(x.abs().mean())
