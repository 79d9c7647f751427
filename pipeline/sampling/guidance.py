"""Guidance: passes in addition to the one with the prompt, and how velocities are pushed away from theirs.

Each pass is a branch with a name. Some read another prompt ("unguided" reads the empty one), others read the scene's
prompt with a perturbed attention: `Perturbed` wraps the context of a pass, so models do not know about it.

Shapes: b batch, h heads, l tokens, d head width.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from typing_extensions import override

from longtake.pipeline.attention.context import QKV, AttentionContext, Meeting, Site
from longtake.pipeline.models.branches import Velocities
from longtake.pipeline.models.protocols import Stream

CROSS_KINDS = ("a2v", "v2a")
"""Sites of cross-modal attention."""
SELF_KINDS = ("video_self", "audio_self")

ROUNDING = 1e-6
"""The most by which a noise level differs from the one that was asked for."""


class Guidance(Protocol):
    """How the velocities of several passes are combined."""

    @property
    def branches(self) -> tuple[str, ...]:
        """The passes of one step, "guided" first."""
        ...

    def context(self, branch: str, context: AttentionContext) -> AttentionContext:
        """The context of the passes of `branch`, made from the store's `context`."""
        ...

    def combine(self, velocities: Mapping[str, Velocities], streams: Mapping[str, Stream]) -> dict[str, Tensor]:
        """The velocity of each stream, from those of the branches that were run on `streams`."""
        ...


@dataclass(frozen=True)
class ClassifierFree(Guidance):
    """Away from the prediction for the empty prompt, with one scale for all streams (Ho, Salimans, arXiv 2207.12598).

    Args:
        scale: at 1 only the guided pass is run.
    """

    scale: float

    @property
    @override
    def branches(self) -> tuple[str, ...]:
        return ("guided",) if self.scale == 1 else ("guided", "unguided")

    @override
    def context(self, branch: str, context: AttentionContext) -> AttentionContext:
        return context

    @override
    def combine(self, velocities: Mapping[str, Velocities], streams: Mapping[str, Stream]) -> dict[str, Tensor]:
        guided, unguided = velocities["guided"], velocities.get("unguided")
        if unguided is None:
            return dict(guided)
        return {name: unguided[name] + self.scale * (guided[name] - unguided[name]) for name in guided}


@dataclass(frozen=True)
class ByNoiseLevel(ClassifierFree):
    """A second scale below a noise level, for models with an expert for each side of it (Wan 2.2 A14B).

    Args:
        low: the scale below the boundary.
        boundary: the lowest noise level of the first scale.
    """

    low: float
    boundary: float

    @property
    @override
    def branches(self) -> tuple[str, ...]:
        return ("guided",) if self.scale == self.low == 1 else ("guided", "unguided")

    @override
    def combine(self, velocities: Mapping[str, Velocities], streams: Mapping[str, Stream]) -> dict[str, Tensor]:
        noisiest = max(float(stream.host_sigma.max()) for stream in streams.values())
        # Levels are float32, in which 0.9 is below 0.9.
        here = ClassifierFree(self.scale if noisiest >= self.boundary - ROUNDING else self.low)
        return here.combine(velocities, streams)


@dataclass(frozen=True)
class StreamScales:
    """The guidance scales of one stream.

    Args:
        prompt: away from the prediction for the empty prompt; 1 is off.
        modality: away from the prediction without cross-modal attention; 1 is off.
        stg: away from the prediction with perturbed self-attention in some layers; 0 is off.
        rescale: how far the standard deviation of the guided clean latents is moved back to that of the pass with the
            prompt alone (Lin et al., arXiv 2305.08891, section 3.4); 0 is off.
    """

    prompt: float = 1.0
    modality: float = 1.0
    stg: float = 0.0
    rescale: float = 0.0


@dataclass(frozen=True)
class PerStream(Guidance):
    """Guidance with separate scales for each stream, of up to three kinds, as in LTX-2's pipelines.

    Args:
        scales: by stream.
        stg_layers: those whose self-attention returns its values (Hyung et al., Spatiotemporal Skip Guidance, arXiv
            2411.18664).
    """

    scales: Mapping[str, StreamScales]
    stg_layers: Collection[int] = field(default=())

    @property
    @override
    def branches(self) -> tuple[str, ...]:
        wanted = {
            "unguided": any(scales.prompt != 1 for scales in self.scales.values()),
            "stg": any(scales.stg for scales in self.scales.values()),
            "modality": any(scales.modality != 1 for scales in self.scales.values()),
        }
        return ("guided", *(name for name, is_on in wanted.items() if is_on))

    @override
    def context(self, branch: str, context: AttentionContext) -> AttentionContext:
        if branch == "modality":
            return Perturbed(context, CROSS_KINDS, None, values=False)
        return Perturbed(context, SELF_KINDS, self.stg_layers, values=True) if branch == "stg" else context

    @override
    def combine(self, velocities: Mapping[str, Velocities], streams: Mapping[str, Stream]) -> dict[str, Tensor]:
        # Clean latents are latents less noise level times velocity, so all but the rescaling is a sum of velocities.
        guided, found = velocities["guided"], {}
        for name, own in guided.items():
            scales = self.scales[name]
            weights = {"unguided": scales.prompt - 1, "stg": scales.stg, "modality": scales.modality - 1}
            away = {branch: own - velocities[branch][name] for branch in weights.keys() & velocities.keys()}
            pushed = own + sum((weights[branch] * delta for branch, delta in sorted(away.items())), torch.zeros(()))
            found[name] = _rescaled(pushed, own, streams[name], scales.rescale) if scales.rescale else pushed
        return found


def _rescaled(pushed: Tensor, own: Tensor, stream: Stream, rescale: float) -> Tensor:
    """`pushed`, with the standard deviation of its clean latents moved to that of `own` by the share `rescale`; latents
    that are clean already keep their velocity."""
    x, sigma = stream.latents, stream.sigma.view(*stream.sigma.shape, *[1] * (stream.latents.dim() - 2))
    clean, clean_own = x - sigma * pushed, x - sigma * own
    sides = list(range(1, x.dim()))
    ratio = clean_own.std(dim=sides, keepdim=True) / clean.std(dim=sides, keepdim=True)
    drawn = clean * (rescale * ratio + 1 - rescale)
    return torch.where(sigma > 0, (x - drawn) / sigma.clamp(min=torch.finfo(sigma.dtype).tiny), pushed).to(own.dtype)


class Perturbed(AttentionContext):
    """A context in which some sites are perturbed: they return their own values, or no output. They attend anyway, so
    that the ranks of a gang and the pages of a store stay in step.

    Args:
        context: of all other sites.
        kinds: of the perturbed sites.
        layers: of the perturbed sites; all if None.
        values: whether they return their values; otherwise nothing.
    """

    def __init__(
        self, context: AttentionContext, kinds: Collection[str], layers: Collection[int] | None, *, values: bool
    ) -> None:
        self._context, self._kinds, self._layers, self._values = context, kinds, layers, values

    @override
    def attend(self, site: Site, streams: Meeting, positions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        attended = self._context.attend(site, streams, positions)
        if site.kind not in self._kinds or (self._layers is not None and site.layer not in self._layers):
            return attended
        own = {name: stream.v for name, stream in streams.items() if isinstance(stream, QKV)}
        return {name: own[name] for name in attended} if self._values else {}

    @override
    def silent(self, layer: int) -> tuple[str, ...]:
        perturbs = not self._values and (self._layers is None or layer in self._layers)
        return (*self._context.silent(layer), *(self._kinds if perturbs else ()))
