"""What every rollout engine shares: the way of one chunk from noise to clean latents.

`causal.py` and `continuation.py` hold the two engines.

Shapes: b batch (1), f latent frames, c channels, h w latent height and width, l audio latents.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from longtake.pipeline.attention.context import Pass
from longtake.pipeline.attention.kv_store import KVStore
from longtake.pipeline.attention.memory import PROMPTS, same_memory
from longtake.pipeline.clock import ChunkSpan, MediaClock
from longtake.pipeline.models.branches import EVERY_BRANCH, Branches, Velocities
from longtake.pipeline.models.devices import sent
from longtake.pipeline.models.protocols import Denoiser, Stream
from longtake.pipeline.sampling.guidance import Guidance
from longtake.pipeline.sampling.noise import KeyedNoise
from longtake.pipeline.sampling.schedule import Levels, restart_step
from longtake.pipeline.sampling.solver import Solver
from longtake.pipeline.sampling.step_cache import StepCache, is_run
from longtake.pipeline.values import GivenLatents, LatentChunk, PromptEmbedding

Prompts = Mapping[str, PromptEmbedding]
"""The prompt of each guidance branch; see `sampling.guidance`."""


@dataclass(frozen=True)
class Sampling:
    """How a chunk is denoised.

    Args:
        sigmas: noise levels of each stream, from 1 down to 0; each stream may have its own.
        solver: started afresh for every stream of every chunk.
        guidance: the passes of a step, and how their velocities are combined.
        noise: the source of the first latents, and of fresh noise.
        restarts: how often the first chunk of each section is noised again to `restart_step`, and denoised from there.
        cache: what of the passes is computed; the denoiser runs its blocks.
    """

    sigmas: Levels
    solver: Solver
    guidance: Guidance
    noise: KeyedNoise
    restarts: int = 0
    cache: StepCache = field(default_factory=StepCache)

    @property
    def num_steps(self) -> int:
        """Denoising steps of a chunk without restarts."""
        return len(self.sigmas["video"]) - 1

    @property
    def restart_step(self) -> int:
        """The step from which a restart denoises again."""
        return restart_step(self.sigmas)


@dataclass(frozen=True)
class Scope:
    """The latents in the passes that render one chunk.

    Args:
        span: the chunk's own latents, and in a continuation those of its overlap before them.
        times_s: the middle of each latent in seconds, by stream.
        given: latents that are given, by stream, at places of `span`.
        clean: whether given latents enter a pass clean, or noised to the level of the step.
    """

    span: ChunkSpan
    times_s: Mapping[str, Sequence[float]]
    given: Mapping[str, GivenLatents] = field(default_factory=dict)
    clean: bool = True

    def levels(self, sampling: Sampling) -> Levels:
        """The noise levels of each stream: none above that from which it is rendered."""
        most = {name: given.level for name, given in self.given.items()}
        return {name: [min(level, most.get(name, 1.0)) for level in all_] for name, all_ in sampling.sigmas.items()}


class RolloutEngine:
    """The base of the rollout engines.

    What the passes over a chunk read is prepared and sent to the device before the first one, so that no pass waits for
    the device and nothing is copied to it between them.

    Args:
        denoiser: predicts velocities.
        store: its KV store, with a branch for every guidance branch that is run here.
        clock: times of latents.
        sampling: steps, solver, guidance, noise.
        latent_shapes: shape of one latent by stream: (c, h, w) for video, (c,) for audio.
        passes: which guidance branches are run here.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        store: KVStore,
        clock: MediaClock,
        sampling: Sampling,
        latent_shapes: Mapping[str, Sequence[int]],
        passes: Branches = EVERY_BRANCH,
    ) -> None:
        self.denoiser, self.store, self.clock, self.sampling = denoiser, store, clock, sampling
        self.latent_shapes, self._passes = latent_shapes, passes
        self._finished: dict[int, LatentChunk] = {}
        self._times: dict[str, tuple[Sequence[float], Tensor]] = {}
        self._texts: list[tuple[Tensor, Tensor]] = []

    def _from_noise(self, scope: Scope, prompts: Prompts) -> dict[str, Tensor]:
        """The clean latents of everything in `scope`, by stream, each with a batch of one.

        Restarts: Xu et al., arXiv 2306.14878. A chunk without a past is the least certain of all; denoising it again
        from its own noised result lets its latents agree.
        """
        sampling, opens = self.sampling, scope.span.index == scope.span.section
        noise = {name: self._noise(scope.span, name, draw=0) for name in self.latent_shapes}
        on_device, levels = self._sent(prompts), scope.levels(sampling)
        values = {name: self._first(scope, name, x, levels[name][0]) for name, x in noise.items()}
        values = self._steps(scope, on_device, values, noise)
        for restart in range(1, sampling.restarts + 1 if opens else 1):
            first, draw = sampling.restart_step, restart * (sampling.num_steps + 1)
            noise = {name: self._noise(scope.span, name, draw) for name in values}
            sigmas = {name: each[first] for name, each in levels.items()}
            values = {name: (1 - sigmas[name]) * x + sigmas[name] * noise[name] for name, x in values.items()}
            values = self._steps(scope, on_device, values, noise, first, draw)
        return values

    def _first(self, scope: Scope, name: str, noise: Tensor, level: float) -> Tensor:
        """A stream's latents at its first level: noise, or all that is given of it with that much noise."""
        if level == 1:
            return noise
        given = sent(scope.given[name].values.to(noise.dtype), noise.device)
        return (1 - level) * given.unsqueeze(0) + level * noise

    def _steps(
        self,
        scope: Scope,
        prompts: Prompts,
        values: dict[str, Tensor],
        noise: Mapping[str, Tensor],
        first: int = 0,
        draw: int = 0,
    ) -> dict[str, Tensor]:
        """The clean latents of `values`, which are at the levels of step `first`.

        Args:
            noise: that of `values`, with which given latents are noised.
            draw: the number of the draw of `noise`; fresh noise is drawn after it.
        """
        sampling, levels = self.sampling, scope.levels(self.sampling)
        sampling.cache.begin(opens=scope.span.index == scope.span.section)
        steps = {name: list(pairwise(each)) for name, each in levels.items()}
        seen = {name: [sampling.solver.seen_level(sigma) for sigma, _ in pairs] for name, pairs in steps.items()}
        inputs = {name: self._inputs(scope, name, seen[name], x.dtype) for name, x in values.items()}
        fresh = {name: self._fresh_noise(scope.span, name, steps[name][first:], draw + first + 1) for name in noise}
        late = {name for name, given in scope.given.items() if given.level < 1}  # rendered from a later level on
        begins = {name: _falling(each[first:]) if name in late else each[first:] for name, each in levels.items()}
        solvers = {name: sampling.solver.begin(begins[name]) for name in noise}
        for step in range(first, sampling.num_steps):
            values = {name: inputs[name].held(x, noise[name], steps[name][step][0]) for name, x in values.items()}
            streams = {name: inputs[name].stream(x, step) for name, x in values.items()}
            velocity = self._guided(streams, scope.span, prompts, step)
            for name, x in values.items():
                sigma, following = steps[name][step]
                if name not in late or sigma != following:
                    values[name] = solvers[name].step(x, velocity[name], sigma, following, fresh[name][step - first])
        return {name: inputs[name].held(x, noise[name], 0.0) for name, x in values.items()}

    def _guided(
        self, streams: Mapping[str, Stream], chunk: ChunkSpan, prompts: Prompts, step: int
    ) -> dict[str, Tensor]:
        """The velocities of one step: its passes in all branches, combined; `prompts` are on the device."""
        cache = self.sampling.cache
        actions = cache.actions(step, prompts, streams)
        own: dict[str, Velocities] = {}
        anything = any(map(is_run, actions.values()))
        for branch in self._passes.branches(prompts) if anything else prompts:
            computed: Velocities = {}
            if is_run(actions[branch]):
                with self.store.open(chunk, branch, seen=prompts[branch].masks) as context:
                    seen = self.sampling.guidance.context(branch, context)
                    computed = self.denoiser(streams, prompts[branch].tokens.unsqueeze(0), seen, Pass(step, branch))
            own[branch] = cache.velocities(step, branch, streams, computed)
        found = self._passes.all_branches(own, prompts) if anything else own
        return self.sampling.guidance.combine(cache.completed(step, found, streams), streams)

    def _inputs(self, scope: Scope, name: str, levels: Sequence[float], dtype: torch.dtype) -> "_StreamInputs":
        """What the passes over latents of `dtype` read of a stream at each of `levels`, on the device."""
        device, given, times_s = self.store.device, scope.given.get(name), list(scope.times_s[name])
        # In float32 or finer: the model tells 0.900 from 0.898.
        rows = torch.tensor(levels, dtype=torch.promote_types(dtype, torch.float32))[:, None, None]
        rows = rows.repeat(1, 1, len(times_s))
        places = values = held = None
        if given is not None:
            places, values = torch.tensor(given.places, dtype=torch.long), sent(given.values.to(dtype), device)
            clean = torch.full(places.shape, scope.clean)
            if given.held is not None:
                clean &= given.held.flatten(1).amin(1).cpu() == 1
                held = _Held(sent(given.held.to(dtype), device), sent(clean[:, None, None, None], device))
            rows[:, :, places[clean]] = 0.0
            places = sent(places, device)
        known, on_device = self._times.get(name, (None, None))
        if on_device is None or known != times_s:  # the passes of a chunk and its clean pass have the same
            on_device = sent(torch.tensor(times_s, dtype=torch.float64), device)
            self._times[name] = (times_s, on_device)
        return _StreamInputs(on_device, rows, sent(rows, device), scope.clean, places, values, held)

    def _fresh_noise(
        self, chunk: ChunkSpan, name: str, steps: Sequence[tuple[float, float]], first_draw: int
    ) -> list[Callable[[], Tensor]]:
        """The fresh noise of each step; what the solver is known to ask for is drawn now."""

        def drawn(draw: int, following: float) -> Callable[[], Tensor]:
            draw_now = partial(self._noise, chunk, name, draw=draw)
            if not self.sampling.solver.adds_noise or not following:
                return draw_now
            noise = draw_now()
            return lambda: noise

        return [drawn(draw, following) for draw, (_, following) in enumerate(steps, start=first_draw)]

    def _sent(self, prompts: Prompts) -> dict[str, PromptEmbedding]:
        """The prompts on the denoiser's device."""
        device = self.store.device

        def on_device(prompt: PromptEmbedding) -> PromptEmbedding:
            seen = None if prompt.seen is None else sent(prompt.seen, device)
            return replace(prompt, tokens=self._text(prompt.tokens), seen=seen)

        once = {id(prompt): on_device(prompt) for prompt in prompts.values()}  # branches may read the same one
        return {branch: once[id(prompt)] for branch, prompt in prompts.items()}

    def _text(self, tokens: Tensor) -> Tensor:
        """Prompt tokens on the denoiser's device: one tensor for all chunks with this prompt, of which layers then make
        their keys and values once."""
        for known, on_device in self._texts:
            if same_memory(known, tokens) or (tokens.device.type == "cpu" and torch.equal(known, tokens)):
                return on_device
        on_device = sent(tokens, self.store.device)
        self._texts = [*self._texts, (tokens, on_device)][-PROMPTS:]
        return on_device

    def times_s(self, span: ChunkSpan) -> dict[str, list[float]]:
        """The middle of each of the chunk's latents in seconds, by stream."""
        return {"video": self.clock.video_times(span), "audio": self.clock.audio_times(span)}

    def _noise(self, chunk: ChunkSpan, name: str, draw: int) -> Tensor:
        latents = {"video": chunk.latents, "audio": chunk.audio_latents}[name]
        noise = self.sampling.noise.draw(name, latents, self.latent_shapes[name], draw)
        return sent(noise.unsqueeze(0).to(latent_dtype(self.store.dtype)), self.store.device)


@dataclass(frozen=True)
class _Held:
    """Which parts of given latents are held.

    Args:
        share: how much of each, from 0 to 1, [k 1 h w].
        clean: bool [k 1 1 1]: those that are held as a whole and enter a pass clean.
    """

    share: Tensor
    clean: Tensor


@dataclass(frozen=True)
class _StreamInputs:
    """What the passes over one stream of a scope read in addition to its latents.

    Args:
        times_s: the middle of each latent in seconds, float64 [f].
        levels: the noise level of every latent frame at each step, on the host [n 1 f] for n steps.
        sigmas: the same on the device.
        clean: whether given latents enter a pass clean, or noised to the level of the step.
        places: of the given latents, [k]; None if there are none.
        given: their values [k ...].
        held_parts: the parts of them that are held; None if they are held as they are.
    """

    times_s: Tensor
    levels: Tensor
    sigmas: Tensor
    clean: bool
    places: Tensor | None
    given: Tensor | None
    held_parts: _Held | None

    def stream(self, x: Tensor, step: int) -> Stream:
        """Latents [1 f ...] as the passes of a step see them."""
        return Stream(x, self.sigmas[step], self.times_s, self.levels[step], self.given)

    def held(self, x: Tensor, noise: Tensor, sigma: float) -> Tensor:
        """`x` [1 f ...] with the given latents in their places: clean, or at the level of the step from their own
        noise."""
        if self.places is None or self.given is None:
            return x
        given = self.given.unsqueeze(0)
        if self.clean and self.held_parts is None:
            return x.index_copy(1, self.places, given)
        noised = (1 - sigma) * given + sigma * noise.index_select(1, self.places)
        if self.held_parts is not None:
            share, clean = self.held_parts.share, self.held_parts.clean
            noised = share * torch.where(clean, given, noised) + (1 - share) * x.index_select(1, self.places)
        return x.index_copy(1, self.places, noised)


def _falling(levels: Sequence[float]) -> Sequence[float]:
    """`levels` from the last one that is as high as the first."""
    return levels[levels.count(levels[0]) - 1 :]


def latent_dtype(weights: torch.dtype) -> torch.dtype:
    """The dtype of latents for weights of that dtype: float32 or finer, so that small steps are not rounded away."""
    return torch.promote_types(weights, torch.float32)
