"""Guidance: passes beside the one that is guided by the prompt, and how velocities are pushed away from theirs.

Each pass is a branch with a name. Some read another prompt ("unguided" reads the empty one), some read the scene's with
an attention that is perturbed: `Perturbed` wraps the context of a pass, so no model knows of it.

Shapes: b batch, h heads, l tokens, d head width.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from longtake.pipeline.attention.context import QKV, AttentionContext, Site
from longtake.pipeline.models.branches import Velocities
from longtake.pipeline.models.protocols import Stream

CROSS_KINDS = ("a2v", "v2a")
"""Sites at which the streams look at each other."""
SELF_KINDS = ("video_self", "audio_self")


class Guidance(Protocol):
    """How the velocities of several passes become one."""

    @property
    def branches(self) -> tuple[str, ...]:
        """The passes of one step, "guided" first."""
        ...

    def context(self, branch: str, context: AttentionContext) -> AttentionContext:
        """What the passes of `branch` attend through, where the store gave `context`."""
        ...

    def combine(self, velocities: Mapping[str, Velocities], streams: Mapping[str, Stream]) -> dict[str, Tensor]:
        """The velocity of each stream, from those of the branches that were run on `streams`."""
        ...


@dataclass(frozen=True)
class ClassifierFree:
    """Away from what the empty prompt gives, in all streams alike (Ho and Salimans, arXiv 2207.12598); at a scale of 1
    there is nothing to do.

    Args:
        scale: 1 is the guided pass itself.
    """

    scale: float

    @property
    def branches(self) -> tuple[str, ...]:
        """See `Guidance.branches`."""
        return ("guided",) if self.scale == 1 else ("guided", "unguided")

    def context(self, _: str, context: AttentionContext) -> AttentionContext:
        """See `Guidance.context`."""
        return context

    def combine(self, velocities: Mapping[str, Velocities], _: Mapping[str, Stream]) -> dict[str, Tensor]:
        """See `Guidance.combine`."""
        guided, unguided = velocities["guided"], velocities.get("unguided")
        if unguided is None:
            return dict(guided)
        return {name: unguided[name] + self.scale * (guided[name] - unguided[name]) for name in guided}


@dataclass(frozen=True)
class ByNoiseLevel(ClassifierFree):
    """Another scale below a noise level, for models with an expert for each side of it (Wan 2.2 A14B).

    Args:
        low: the scale below the boundary.
        boundary: the lowest noise level of the first scale.
    """

    low: float
    boundary: float

    @property
    def branches(self) -> tuple[str, ...]:
        """See `Guidance.branches`."""
        return ("guided",) if self.scale == self.low == 1 else ("guided", "unguided")

    def combine(self, velocities: Mapping[str, Velocities], streams: Mapping[str, Stream]) -> dict[str, Tensor]:
        """See `Guidance.combine`."""
        noisiest = max(float(stream.sigma.max()) for stream in streams.values())
        here = ClassifierFree(self.scale if noisiest >= self.boundary else self.low)
        return here.combine(velocities, streams)


@dataclass(frozen=True)
class StreamScales:
    """How strongly one stream is guided.

    Args:
        prompt: away from the empty prompt; 1 is off.
        modality: away from what the stream does unseen and unheard by the other one; 1 is off.
        stg: away from a pass whose self-attention is broken in some layers; 0 is off.
        rescale: how far the spread of the guided clean latents is drawn back to that of the unguided ones (Lin et al.,
            arXiv 2305.08891, section 3.4); 0 is off.
    """

    prompt: float = 1.0
    modality: float = 1.0
    stg: float = 0.0
    rescale: float = 0.0


@dataclass(frozen=True)
class PerStream:
    """Guidance of each stream by itself, of up to three kinds, as LTX-2's pipelines have it.

    Args:
        scales: by stream.
        stg_layers: those whose self-attention gives back its values (Hyung et al., Spatiotemporal Skip Guidance, arXiv
            2411.18664).
    """

    scales: Mapping[str, StreamScales]
    stg_layers: Collection[int] = field(default=())

    @property
    def branches(self) -> tuple[str, ...]:
        """See `Guidance.branches`."""
        wanted = {
            "unguided": any(scales.prompt != 1 for scales in self.scales.values()),
            "stg": any(scales.stg for scales in self.scales.values()),
            "modality": any(scales.modality != 1 for scales in self.scales.values()),
        }
        return ("guided", *(name for name, storyboard in wanted.items() if storyboard))

    def context(self, branch: str, context: AttentionContext) -> AttentionContext:
        """See `Guidance.context`."""
        if branch == "modality":
            return Perturbed(context, CROSS_KINDS, None, values=False)
        return Perturbed(context, SELF_KINDS, self.stg_layers, values=True) if branch == "stg" else context

    def combine(self, velocities: Mapping[str, Velocities], streams: Mapping[str, Stream]) -> dict[str, Tensor]:
        """See `Guidance.combine`. Clean latents are latents less noise level times velocity, so all but the rescaling
        is the same sum of velocities."""
        guided, found = velocities["guided"], {}
        for name, own in guided.items():
            scales = self.scales[name]
            weights = {"unguided": scales.prompt - 1, "stg": scales.stg, "modality": scales.modality - 1}
            away = {branch: own - velocities[branch][name] for branch in weights.keys() & velocities.keys()}
            pushed = own + sum((weights[branch] * delta for branch, delta in sorted(away.items())), torch.zeros(()))
            found[name] = _rescaled(pushed, own, streams[name], scales.rescale) if scales.rescale else pushed
        return found


def _rescaled(pushed: Tensor, own: Tensor, stream: Stream, rescale: float) -> Tensor:
    """A velocity whose clean latents spread as those of `own`, by the share `rescale`; where a latent is clean there is
    nothing to say."""
    x, sigma = stream.latents, stream.sigma.view(*stream.sigma.shape, *[1] * (stream.latents.dim() - 2))
    clean, clean_own = x - sigma * pushed, x - sigma * own
    sides = list(range(1, x.dim()))
    ratio = clean_own.std(dim=sides, keepdim=True) / clean.std(dim=sides, keepdim=True)
    drawn = clean * (rescale * ratio + 1 - rescale)
    return torch.where(sigma > 0, (x - drawn) / sigma.clamp(min=torch.finfo(sigma.dtype).tiny), pushed).to(own.dtype)


class Perturbed:
    """A context in which some sites are broken: they give back their own values, or no answer. They attend all the
    same, so that the ranks of a gang and the pages of a store stay in step.

    Args:
        context: that answers at all other sites.
        kinds: of the broken sites.
        layers: of the broken sites; all, where None.
        values: whether they give back their values; otherwise nothing.
    """

    def __init__(
        self, context: AttentionContext, kinds: Collection[str], layers: Collection[int] | None, *, values: bool
    ) -> None:
        self._context, self._kinds, self._layers, self._values = context, kinds, layers, values

    def attend(self, site: Site, streams: Mapping[str, QKV], positions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `AttentionContext.attend`; a stream without an answer is missing."""
        answers = self._context.attend(site, streams, positions)
        if site.kind not in self._kinds or (self._layers is not None and site.layer not in self._layers):
            return answers
        return {name: streams[name].v for name in answers} if self._values else {}
