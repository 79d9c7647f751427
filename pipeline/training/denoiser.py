"""Training of the denoiser: flow matching under teacher forcing, with the sound lagging the picture.

Each clip is one clean row and several noisy copies. Every chunk of a copy has its own noise levels and sees the clean
chunks before it. Noise levels are drawn along the path of the sampler, where the sound lags the picture
(`EmbeddedModelConfig.audio_lag`); a share of them is drawn independently, so that one stream can condition the other.

Shapes: b clips, r rows (copies of clips), k chunks, f latent frames of a stream, l text tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from einops import rearrange, reduce, repeat
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from longtake.pipeline.attention.context import ChunkLengths
from longtake.pipeline.clock import ChunkSpan, MediaClock, plan_chunks, plan_scenes
from longtake.pipeline.models.av_dit import StreamBlock
from longtake.pipeline.models.blocks import predict
from longtake.pipeline.models.embedded import EmbeddedModel
from longtake.pipeline.models.protocols import Stream
from longtake.pipeline.sampling.schedule import shift_sigma, staggered
from longtake.pipeline.training.context import TeacherForcedContext
from longtake.pipeline.training.options import read_options
from longtake.pipeline.training.source import ClipSource
from longtake.pipeline.training.spec import TrainSpec
from longtake.pipeline.training.task import Batch

Latents = dict[str, Tensor]
"""By stream: "video" [b f c h w], "audio" [b f c]."""


@dataclass(frozen=True)
class DenoiserOptions:
    """Options of denoiser training.

    Args:
        chunks: number of chunks in a clip.
        copies: noisy copies of each clip, which share its clean row.
        shift: shifts noise levels towards noise, as the sampling schedule does.
        switch: share of clips whose prompt changes.
        no_text: share of clips without a prompt, for guidance.
        off_path: share of chunks whose streams have unrelated noise levels.
        audio_given: share of chunks whose sound is clean.
        video_given: share of chunks whose picture is clean.
        ends_given: share of chunks whose first and last video latents are clean.
        some_given: share of chunks with clean video latents at random.
        apart: share of steps in which the streams do not attend to each other.
        history_noise: largest noise level added to the clean row, unknown to the model, in `history_share` of clips.
        own_history: share of clips whose clean row is the model's own output: noised, and denoised in one step.
        audio_weight: weight of the sound's loss relative to the picture's.
        direction_weight: weight of the angle between predicted and true velocities (Yao et al., FasterDiT,
            arXiv 2410.10356).
        compile: compile the blocks; takes a minute and a C compiler, and saves a quarter of each step.
    """

    chunks: int = 4
    copies: int = 3
    shift: float = 2.5
    switch: float = 0.15
    no_text: float = 0.1
    off_path: float = 0.1
    audio_given: float = 0.05
    video_given: float = 0.0
    ends_given: float = 0.0
    some_given: float = 0.0
    apart: float = 0.1
    history_noise: float = 0.1
    history_share: float = 0.3
    own_history: float = 0.0
    audio_weight: float = 1.0
    direction_weight: float = 0.0
    compile: bool = False


class DenoiserTask:
    """Trains the denoiser and the text encoder on latents of the frozen codecs."""

    def __init__(self, spec: TrainSpec, model: EmbeddedModel, source: ClipSource) -> None:
        self._options: DenoiserOptions
        (self._options,) = read_options(spec.options, DenoiserOptions)
        self._model, self._source, self._seed = model, source, spec.seed
        self._grid = ClipGrid.of(model, source.fps, self._options.chunks)
        for codec in (model.video_codec, model.sound_codec):
            codec.requires_grad_(False)
        if self._options.compile:
            compile_blocks(model)
        self.objective: nn.Module = FlowMatching(model, self._grid, self._options)

    def draw(self, seed: int, step: int, rank: int, size: int) -> Batch:
        """Clips, their tokenized prompts, and noise levels per chunk and copy [b r k]."""
        options, numbers = self._options, range(rank * size, (rank + 1) * size)
        clips = self._source.draw((seed, step), numbers, self._grid.seconds, options.switch)
        rng = np.random.default_rng((seed, step, 0, rank))
        shape = size, options.copies, options.chunks
        levels = draw_levels(rng, shape, self._model.config.audio_lag, options)
        words = torch.stack([self._model.text.tokenize(prompt) for prompt in clips.prompts])
        words[torch.from_numpy(rng.random(size) < options.no_text)] = 0
        starts_s = torch.tensor([float(chunk.start_s) for chunk in self._grid.spans])
        return {
            "frames": clips.frames,
            "sound": clips.sound,
            "words": words,
            "learned": (starts_s >= torch.tensor(clips.since_s)[:, None]).float(),
            "history_noise": torch.from_numpy(_history_noise(rng, size, options)).float(),
            "own_history": torch.from_numpy(_own_history(rng, size, options)).float(),
            "apart": torch.tensor(np.random.default_rng((seed, step)).random() < options.apart),
            "given": torch.from_numpy(_given(rng, (*shape, self._model.chunk_latents), options)),
            **{name: torch.from_numpy(sigma).float() for name, sigma in levels.items()},
        }

    def finished(self, weights: Mapping[str, Tensor]) -> EmbeddedModel:
        """The whole model, marked as trained."""
        self.objective.load_state_dict(weights)
        self._model.config = replace(self._model.config, trained=True)
        return self._model

    def sample(self, model: EmbeddedModel, folder: Path) -> None:
        """Write no samples: `longtake render --set model=...` shows more than a sample could."""


@dataclass(frozen=True)
class ClipGrid:
    """A clip split into equal chunks."""

    clock: MediaClock
    spans: tuple[ChunkSpan, ...]

    @classmethod
    def of(cls, model: EmbeddedModel, fps: Fraction, chunks: int) -> "ClipGrid":
        """The grid of a clip with `chunks` chunks at `fps`."""
        clock = model.clock(fps)
        seconds = clock.seconds(clock.frames(chunks * model.config.chunk_latents))
        return cls(clock, plan_chunks(clock, plan_scenes(clock, [seconds], [True]), model.config.chunk_latents))

    @property
    def seconds(self) -> Fraction:
        """The duration of a clip."""
        return self.spans[-1].stop_s

    def times_s(self, stream: str) -> Tensor:
        """The middle of each latent frame, float64 [f]."""
        times = self.clock.video_times if stream == "video" else self.clock.audio_times
        return torch.tensor([time_s for span in self.spans for time_s in times(span)], dtype=torch.float64)

    def lengths(self, tokens_per_latent: Mapping[str, int]) -> list[ChunkLengths]:
        """Token counts and times of each chunk, for the attention context."""
        return [
            ChunkLengths(
                {
                    "video": len(span.latents) * tokens_per_latent["video"],
                    "audio": len(span.audio_latents) * tokens_per_latent["audio"],
                },
                span.start_s,
                span.stop_s,
            )
            for span in self.spans
        ]

    def spread(self, per_chunk: Tensor, stream: str) -> Tensor:
        """Expand a value per chunk [r k] to one per latent frame [r f]."""
        lengths = [len(span.latents if stream == "video" else span.audio_latents) for span in self.spans]
        return per_chunk.repeat_interleave(torch.tensor(lengths, device=per_chunk.device), dim=1)


class FlowMatching(nn.Module):
    """The squared error of predicted velocities (noise minus clean), averaged per stream over the trained latents."""

    def __init__(self, model: EmbeddedModel, grid: ClipGrid, options: DenoiserOptions) -> None:
        super().__init__()
        self.model, self._grid, self._options = model, grid, options

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of one batch, and the part of each stream."""
        clean = self._encode(batch)
        text, apart = self.model.text(batch["words"]), bool(batch["apart"])
        history = self._history(clean, text, batch)
        levels = {name: self._grid.spread(rearrange(batch[name], "b c k -> (c b) k"), name) for name in clean}
        levels["video"] = levels["video"] * ~rearrange(batch["given"], "b c k f -> (c b) (k f)")
        copies = {name: repeat(z, "b ... -> (c b) ...", c=self._options.copies) for name, z in clean.items()}
        velocities, targets = self._velocities(history, copies, levels, text, apart)
        losses = {name: self._loss(name, velocities[name], targets[name], levels[name], batch) for name in clean}
        return {"loss": losses["video"] + self._options.audio_weight * losses["audio"], **losses}

    @torch.no_grad()
    def _encode(self, batch: Batch) -> dict[str, Tensor]:
        self.model.video_codec.eval()
        video = self.model.video_codec.encode(batch["frames"])
        sound = batch["sound"].flatten(0, -2)  # of stereo clips, the channels are rows
        return {"video": video.float(), "audio": self.model.sound_codec.encode(sound).float()}

    @torch.no_grad()
    def _history(self, clean: Latents, text: Tensor, batch: Batch) -> Latents:
        """The clean rows as later chunks see them: with a little noise, or with the model's own errors."""
        level = batch["own_history"]
        if level.any():
            levels = {name: _column(level, z).flatten(1).expand(z.shape[:2]) for name, z in clean.items()}
            velocities, targets = self._velocities(clean, clean, levels, text, apart=False)
            clean = {
                name: z + _column(level, z) * (targets[name] - velocities[name].float()) for name, z in clean.items()
            }
        noise = batch["history_noise"]
        return {
            name: (1 - _column(noise, z)) * z + _column(noise, z) * torch.randn_like(z) for name, z in clean.items()
        }

    def _velocities(
        self, history: Latents, copies: Latents, levels: Latents, text: Tensor, apart: bool
    ) -> tuple[Latents, Latents]:
        """Predicted and true velocities of `copies` [r f ...] noised to `levels` [r f], conditioned on `history`.

        Args:
            apart: run each stream separately.
        """
        streams, targets = {}, {}
        for name, z in copies.items():
            noise, level = torch.randn_like(z), levels[name].reshape(*levels[name].shape, *[1] * (z.ndim - 2))
            rows = torch.cat((history[name], (1 - level) * z + level * noise))
            row_levels = torch.cat((torch.zeros_like(levels[name][: len(text)]), levels[name]))
            streams[name], targets[name] = Stream(rows, row_levels, self._grid.times_s(name)), noise - z
        denoiser, plan = self.model.denoiser, self.model.kv_plan
        patches = copies["video"].shape[-2:].numel() // denoiser.config.patch**2
        chunks = self._grid.lengths({"video": patches, "audio": 1})
        texts = repeat(text, "b l e -> (c b) l e", c=1 + len(copies["video"]) // len(text))
        out: Latents = {}
        for group in [[name] for name in streams] if apart else [list(streams)]:
            context = TeacherForcedContext(chunks, plan, denoiser.rope, num_clean=len(text))
            out.update(predict(denoiser, {name: streams[name] for name in group}, texts, context))
        return {name: velocity[len(text) :] for name, velocity in out.items()}, targets

    def _loss(self, name: str, velocity: Tensor, target: Tensor, level: Tensor, batch: Batch) -> Tensor:
        """The mean squared error over trained latents.

        Left out are clean latents, pure noise (sampling keeps it until the stream's first step), and chunks before a
        change of prompt.
        """
        learned = repeat(batch["learned"], "b k -> (c b) k", c=self._options.copies)
        weight = self._grid.spread(learned, name) * ((level > 0) & (level < 1))
        error = reduce((velocity.float() - target) ** 2, "r f ... -> r f", "mean")
        if self._options.direction_weight:
            turned = 1 - functional.cosine_similarity(velocity.float(), target, dim=2)
            error = error + self._options.direction_weight * reduce(turned, "r f ... -> r f", "mean")
        return (weight * error).sum() / weight.sum().clamp_min(1)


def draw_levels(
    rng: np.random.Generator, shape: tuple[int, int, int], audio_lag: float, options: DenoiserOptions
) -> dict[str, np.ndarray]:
    """Noise levels of both streams, each `shape`.

    They lie on the sampling path, at stratified progress, except for the shares `off_path`, `audio_given` and
    `video_given`.
    """
    count = int(np.prod(shape))
    progress = rng.permutation((np.arange(count) + rng.random(count)) / count).reshape(shape)
    video, audio = staggered(progress, audio_lag)
    kind = rng.random(shape)
    off_path = kind < options.off_path
    video, audio = np.where(off_path, rng.random(shape), video), np.where(off_path, rng.random(shape), audio)
    for name, share in (("audio", options.audio_given), ("video", options.video_given)):
        given, kind = (kind >= options.off_path) & (kind < options.off_path + share), kind - share
        video = np.where(given, 1.0 if name == "video" else progress, video)
        audio = np.where(given, 1.0 if name == "audio" else progress, audio)
    return {name: shift_sigma(1 - done, options.shift) for name, done in (("video", video), ("audio", audio))}


def compile_blocks(model: EmbeddedModel) -> None:
    """Compile the parts of each block outside attention."""
    for stream in model.denoiser.blocks.modules():
        if isinstance(stream, StreamBlock):
            for name in ("qkv", "update"):
                setattr(stream, name, torch.compile(getattr(stream, name), dynamic=False))


def _column(values: Tensor, like: Tensor) -> Tensor:
    """Reshape values [b] so that they broadcast to `like` [b ...]."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def _own_history(rng: np.random.Generator, size: int, options: DenoiserOptions) -> np.ndarray:
    """The level to which each clip's clean row is noised before the model denoises it; 0 for unchanged rows."""
    return np.where(rng.random(size) < options.own_history, rng.uniform(0.2, 0.9, size), 0.0)


def _given(rng: np.random.Generator, shape: tuple[int, int, int, int], options: DenoiserOptions) -> NDArray[np.bool_]:
    """Which video latents are clean in chunks whose picture is to be denoised, `shape`."""
    given = np.zeros(shape, np.bool_)
    if options.ends_given or options.some_given:
        kind = rng.random(shape[:3])
        given[kind < options.ends_given] = np.isin(np.arange(shape[3]), (0, shape[3] - 1))
        some = (kind >= options.ends_given) & (kind < options.ends_given + options.some_given)
        given |= some[..., None] & (rng.random(shape) < 0.5)
    return given


def _history_noise(rng: np.random.Generator, size: int, options: DenoiserOptions) -> np.ndarray:
    return np.where(rng.random(size) < options.history_share, rng.random(size) * options.history_noise, 0.0)
