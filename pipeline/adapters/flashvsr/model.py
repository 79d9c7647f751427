"""FlashVSR (Zhuang et al., arXiv 2510.12747) as a streaming upscaler: projector, one pass of the transformer, decoder.

A chunk's low-resolution frames are enlarged by bicubic interpolation and projected to tokens, which are added to those
of pure noise. One step of the transformer gives the clean latents. Unlike the published pipeline, this one does not
draw the noise of the whole film at once (which costs memory and makes frames depend on the film's length), has no table
of 1,024 positions, does not crop to multiples of 128, and keeps the last frames.

Shapes: f frames, c channels, h w rows and columns of the given frames, H W of the enlarged ones.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256

import torch
from torch import Tensor, nn
from torch.nn import functional

from longtake.pipeline.adapters.flashvsr.attention import UNIT_LATENTS, Attend, BlockSparseAttention
from longtake.pipeline.adapters.flashvsr.decoder import LATENT_FRAMES, TinyDecoder
from longtake.pipeline.adapters.flashvsr.dit import KV, PATCH, Constants, DiTSizes, StreamingDiT
from longtake.pipeline.adapters.flashvsr.projector import Projector, Tails, Variant
from longtake.pipeline.errors import SpecError
from longtake.pipeline.models.fingerprint import weights_fingerprint
from longtake.pipeline.sampling.noise import KeyedNoise

SCALE = 4
MULTIPLE = 128
FIRST_LATENTS = 6
LOOKAHEAD_FRAMES = LATENT_FRAMES
DECODER_LATENTS = 8
LATENT_PIXELS = 8

# Upper bounds of live copies of tokens, of features at the decoder's last level, and of a chunk's pictures.
_TOKEN_COPIES = 12
_FEATURE_COPIES = 4
_PICTURE_COPIES = 4


@dataclass(frozen=True)
class FlashVSRSizes:
    """Sizes of all three networks; the defaults are the published ones."""

    dit: DiTSizes = field(default_factory=DiTSizes)
    hidden: tuple[int, int] = (2048, 3072)
    decoder: tuple[int, int, int, int] = (512, 256, 128, 128)


@dataclass(frozen=True)
class FlashVSRSettings:
    """How the weights are used. The defaults are the published ones; a ratio of 1.5 and a range of 9 are faster and
    sharper.

    Args:
        seed: of the noise.
        attend: decides which earlier tokens a token sees.
        kv_units: units of two latents (8 frames) before a chunk that it sees. The model was trained with 3.
        colour_fix: give the channels of every picture the mean and deviation of those of its frame.
    """

    seed: int = 0
    attend: Attend = field(default_factory=BlockSparseAttention)
    kv_units: int = 3
    colour_fix: bool = True


@dataclass
class FlashVSRState:
    """The state of a stream. Its size is constant after the first chunk.

    `held` are pushed frames [f 3 h w] that are not upscaled yet. After the first chunk, `LOOKAHEAD_FRAMES` of them have
    already been through the projector.
    """

    height: int
    width: int
    next_latent: int
    held: Tensor
    constants: Constants
    decoder: list[Tensor]
    tails: Tails | None = None
    kv: list[KV] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Bytes of the state, without the prompt's keys, which are constant."""
        return sum(tensor.nbytes for tensor in self.snapshot().values())

    def snapshot(self) -> dict[str, Tensor]:
        """Everything that `restore` needs, by name."""
        lists = {"decoder": self.decoder, "tails": self.tails or [], "kv": [tensor for kv in self.kv for tensor in kv]}
        tensors = {f"{name}.{index}": x for name, tensors in lists.items() for index, x in enumerate(tensors)}
        return {"held": self.held, "next_latent": torch.tensor(self.next_latent), **tensors}

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Set the state to that of a snapshot."""
        device = self.constants.condition.device
        self.held, self.next_latent = saved["held"], int(saved["next_latent"])
        saved = {name: tensor.to(device) for name, tensor in saved.items()}
        self.decoder, tails, kv = (_listed(saved, name) for name in ("decoder", "tails", "kv"))
        self.tails = Tails(*tails) if tails else None
        self.kv = [KV(*pair) for pair in zip(kv[::2], kv[1::2], strict=True)]


class FlashVSR(nn.Module):
    """Upscales a scene by 4, chunk after chunk, as many pictures out as frames in.

    A `StreamingUpscaler` that looks ahead: a chunk's pictures need the four frames after the chunk, and the first
    chunk is longer (25 frames in, 21 pictures out; then 8 for 8). To start inside a scene, begin `history_frames`
    earlier, at a multiple of 8 frames, and discard the pictures before the wanted ones.

    Args:
        sizes: of the networks.
        variant: v1 and v1.1 have tensors of the same names and shapes; the wrong variant gives ghost images.
        settings: how the weights are used.
    """

    scales: tuple[int, ...] = (SCALE,)
    trained = True
    chunk_frames = UNIT_LATENTS * LATENT_FRAMES
    first_chunk_frames = (FIRST_LATENTS - 1) * LATENT_FRAMES + 1
    lookahead_frames = LOOKAHEAD_FRAMES

    def __init__(self, sizes: FlashVSRSizes, variant: Variant, settings: FlashVSRSettings) -> None:
        super().__init__()
        self.name = f"FlashVSR {variant}"
        self.sizes, self.variant, self.settings = sizes, variant, settings
        self.projector = Projector(sizes.hidden, sizes.dit.width, variant)
        self.dit = StreamingDiT(sizes.dit, settings.attend, settings.kv_units)
        self.decoder = TinyDecoder(sizes.decoder, sizes.dit.latent_channels)
        self.prompt = nn.Parameter(torch.zeros(1, sizes.dit.text_tokens, sizes.dit.text_width), requires_grad=False)
        self._noise = KeyedNoise(settings.seed)

    @property
    def history_frames(self) -> int:
        """How many frames before its chunk a picture can depend on: 760 with the published sizes.

        One unit for the projector, `kv_units` for each layer of the transformer, eight latents for the decoder.
        """
        units = self.settings.kv_units * self.sizes.dit.layers + 1
        return units * self.chunk_frames + DECODER_LATENTS * LATENT_FRAMES

    def fingerprint(self) -> str:
        """SHA-256 of all weights by name, of the variant and of the settings."""
        settings, attend = self.settings, self.settings.attend
        seen = getattr(attend, "__name__", repr(attend))
        parts = (self.variant, settings.seed, seen, settings.kv_units, settings.colour_fix, weights_fingerprint(self))
        return sha256(repr(parts).encode()).hexdigest()

    def working_bytes(self, scale: int, height: int, width: int) -> int:
        """An upper estimate: keys and values, the first chunk's tokens, the decoder's features, its pictures."""
        pixels = _padded(scale * height) * _padded(scale * width)
        item, dit = self.prompt.element_size(), self.sizes.dit
        tokens = pixels // (LATENT_PIXELS * PATCH) ** 2
        cache = dit.layers * 2 * self.settings.kv_units * UNIT_LATENTS * tokens * dit.width
        passed = FIRST_LATENTS * tokens * (dit.ffn_width + _TOKEN_COPIES * dit.width)
        decoded = LATENT_FRAMES * pixels * _FEATURE_COPIES * max(self.sizes.decoder[2:])
        given = (self.first_chunk_frames + self.lookahead_frames) * 3 * pixels * _PICTURE_COPIES
        return (cache + passed + decoded) * item + given * 4

    @torch.inference_mode()
    def start(self, scale: int, height: int, width: int, first_frame: int = 0) -> FlashVSRState:
        """The state of a stream of frames of this size, which begins with frame `first_frame` of its scene.

        Raises:
            SpecError: the scale is not 4, or `first_frame` is off the grid of 8 frames.
        """
        if scale not in self.scales:
            raise SpecError(f"scale is {scale}, and FlashVSR knows 4 only; upscale by 4 and reduce the result")
        if first_frame % self.chunk_frames:
            before = first_frame - first_frame % self.chunk_frames
            raise SpecError(f"a stream cannot start at frame {first_frame}; start at {before}, a multiple of 8")
        return FlashVSRState(
            height=height,
            width=width,
            next_latent=first_frame // LATENT_FRAMES,
            held=torch.zeros(0, 3, height, width),
            constants=self.dit.constants(self.prompt),
            decoder=self.decoder.start(*(_padded(SCALE * size) for size in (height, width))),
        )

    @torch.inference_mode()
    def push(self, frames: Tensor, state: FlashVSRState) -> Tensor:
        """The pictures that become ready with `frames`. Advances `state`.

        The result does not depend on how the frames of a scene are split into pushes.

        Args:
            frames: float [f 3 h w] in 0..1, gamma-coded RGB, the next ones of the scene.
            state: of `start`.

        Returns:
            float32 [f 3 H W] in 0..1 on the model's device; float64 from a float64 model.
        """
        state.held = torch.cat((state.held, frames.to(state.held)))
        pictures = [self._empty(state)]
        while state.held.shape[0] >= self._needed(state):
            pictures.append(self._chunk(state))
        return torch.cat(pictures)

    @torch.inference_mode()
    def finish(self, state: FlashVSRState) -> Tensor:
        """The pictures of all held frames, with the last frame repeated. The state must not be used afterwards."""
        wanted, pictures = state.held.shape[0], self._empty(state)
        while pictures.shape[0] < wanted:
            lacking = self._needed(state) - state.held.shape[0]
            more = self.push(state.held[-1:].expand(lacking, -1, -1, -1), state)
            pictures = torch.cat((pictures, more))
        return pictures[:wanted]

    def stream(self, frames: Iterable[Tensor], state: FlashVSRState) -> Iterator[Tensor]:
        """Pictures [3 H W], one for each of the frames [3 h w] of a scene, beginning with a new `state`."""
        for frame in frames:
            yield from self.push(frame.unsqueeze(0), state)
        yield from self.finish(state)

    def _needed(self, state: FlashVSRState) -> int:
        frames = self.chunk_frames if state.tails else self.first_chunk_frames
        return frames + self.lookahead_frames

    def _chunk(self, state: FlashVSRState) -> Tensor:
        """The next chunk's pictures. The state changes at the end, so that a failed chunk leaves it as it was."""
        given = self._enlarged(state.held[: self._needed(state)])
        added, tails = self._project(given, state.tails)
        latents, kv = self._denoise(added, state)
        ready = given[: -self.lookahead_frames]
        pictures, decoder = self._decode(latents, ready, state)
        state.held, state.next_latent = state.held[len(ready) :].clone(), state.next_latent + len(latents)
        state.tails, state.kv, state.decoder = tails, kv, decoder
        return self._finished(pictures, ready, state)

    def _enlarged(self, frames: Tensor) -> Tensor:
        """Frames [f 3 h w] in 0..1 as [f 3 H W] in -1..1, padded by their edges to multiples of 128."""
        large = enlarged(frames.to(self.prompt.device, self._dtype))
        height, width = large.shape[-2:]
        edges = (0, _padded(width) - width, 0, _padded(height) - height)
        return functional.pad(2 * large - 1, edges, mode="replicate")

    def _project(self, given: Tensor, tails: Tails | None) -> tuple[Tensor, Tails]:
        """Tokens [f h w d] for the latents of a chunk, from the groups of frames that follow them."""
        frames, tokens = given.to(self.prompt.dtype), []
        if tails is None:
            tails, new = self.projector.start(frames[0]), frames[1:]
        else:
            new = frames[self.lookahead_frames :]
        for group in torch.split(new, LATENT_FRAMES):
            token, tails = self.projector(group, tails)
            tokens.append(token)
        return torch.stack(tokens), tails

    def _denoise(self, added: Tensor, state: FlashVSRState) -> tuple[Tensor, list[KV]]:
        """Clean latents [f c h w] from noise, in one step from the noise level 1."""
        num, rows, columns, _ = added.shape
        numbers = range(state.next_latent, state.next_latent + num)
        noise = self._noise.draw("upscale", numbers, (self.sizes.dit.latent_channels, 2 * rows, 2 * columns))
        noise = noise.to(self.prompt)
        velocity, kv = self.dit(noise, added, state.next_latent, state.constants, state.kv)
        return noise - velocity, kv

    def _decode(self, latents: Tensor, ready: Tensor, state: FlashVSRState) -> tuple[Tensor, list[Tensor]]:
        """Pictures [f 3 H W] in -1..1; the scene's first latent holds its first frame alone."""
        lacking = len(latents) * LATENT_FRAMES - len(ready)
        frames = torch.cat((ready[:1].expand(lacking, -1, -1, -1), ready)).to(latents)
        memory, pictures = state.decoder, []
        for latent, group in zip(latents, torch.split(frames, LATENT_FRAMES), strict=True):
            decoded, memory = self.decoder(latent, group, memory)
            pictures.append(2 * decoded - 1)
        return torch.cat(pictures)[lacking:], memory

    def _finished(self, pictures: Tensor, given: Tensor, state: FlashVSRState) -> Tensor:
        """Pictures in 0..1, cut back to their size, in the colours of the `given` frames."""
        height, width = SCALE * state.height, SCALE * state.width
        pictures, given = pictures[..., :height, :width].to(self._dtype), given[..., :height, :width]
        if self.settings.colour_fix:
            pictures = recoloured(pictures, given)
        return (pictures.clamp(-1, 1) + 1) / 2

    def _empty(self, state: FlashVSRState) -> Tensor:
        return self.prompt.new_zeros(0, 3, SCALE * state.height, SCALE * state.width, dtype=self._dtype)

    @property
    def _dtype(self) -> torch.dtype:
        return torch.promote_types(self.prompt.dtype, torch.float32)


def enlarged(frames: Tensor) -> Tensor:
    """Frames [f 3 h w] in 0..1 at four times the size, as Pillow's bicubic filter has it, which the model knows.

    PyTorch has two: without `antialias`, which does nothing else when enlarging, its kernel is a sharper one.
    """
    return functional.interpolate(frames, scale_factor=SCALE, mode="bicubic", antialias=True).clamp(0, 1)


def recoloured(pictures: Tensor, given: Tensor) -> Tensor:
    """Every channel [f 3 H W] of `pictures` with the mean and deviation of the same in `given` (AdaIN)."""
    (variance, mean), (wanted, middle) = (
        torch.var_mean(x, dim=(-2, -1), correction=0, keepdim=True) for x in (pictures, given)
    )
    return (pictures - mean) * ((wanted + 1e-5) / (variance + 1e-5)).sqrt() + middle


def _padded(size: int) -> int:
    return -(-size // MULTIPLE) * MULTIPLE


def _listed(saved: Mapping[str, Tensor], name: str) -> list[Tensor]:
    count = sum(key.startswith(f"{name}.") for key in saved)
    return [saved[f"{name}.{index}"] for index in range(count)]
