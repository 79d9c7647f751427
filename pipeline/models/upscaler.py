"""A small causal upscaler: frames in, pictures of two or four times the size out, for streams of any length.

Frames pass in chunks. A projector handles each frame alone. A trunk of convolutions follows, with attention layers in
between, where every pixel fetches the pixels that it matches in earlier chunks from a KV store: see
`pipeline/models/window_matching.py`. The decoder reads the features and the low-resolution frame, and adds its output
to a bicubic enlargement. All scales share everything but the last layer.

Only the store reaches back, so an output depends on no frame that is older than `Upscaler.history_frames`, and a stream
may start anywhere in a scene after a warm-up of that length, with equal bits: the place of a chunk's keys in the store
and their rotation follow from the chunk's number in its scene alone.

Shapes: b clips, f frames, c channels, h w low-resolution pixels, H W high-resolution pixels.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from longtake.pipeline.attention.context import AttentionContext
from longtake.pipeline.attention.kv_plan import KVPlan, Page, PageTable, SiteLayout, StreamLayout
from longtake.pipeline.attention.kv_store import BranchSnapshot, KVStore
from longtake.pipeline.clock import ChunkSpan
from longtake.pipeline.errors import ShapeError, SpecError
from longtake.pipeline.models.fingerprint import weights_fingerprint
from longtake.pipeline.models.seeding import seeded
from longtake.pipeline.models.window_matching import KIND, SITE, STREAM, Appearance, Matching, WindowMatching

BRANCH = "frames"
DETAIL_GAIN = 8.0
"""Gain of the fine detail, which the network reads as separate channels. Without them it learns far more slowly."""

_PROBE = 64  # side of the frames whose state is measured
_FEATURE_COPIES = 10  # upper bound of live copies of a pass's features


@dataclass(frozen=True)
class UpscalerConfig:
    """The configuration of an `Upscaler`; stored with its weights.

    Args:
        name: the model's name.
        trained: whether the weights were trained. Random weights only show that the pipeline works.
        scales: supported enlargement factors.
        chunk_frames: frames of one pass.
        window: chunks before the current one that a layer's attention sees.
        width: channels of a pixel's features.
        blocks: residual blocks before, between and behind the attention layers.
        attentions: attention layers.
        num_heads: of each.
        window_pixels: side of the square windows, in pixels, within which attention works.
    """

    name: str
    trained: bool = False
    scales: tuple[int, ...] = (2, 4)
    chunk_frames: int = 4
    window: int = 3
    width: int = 32
    blocks: int = 2
    attentions: int = 2
    num_heads: int = 2
    window_pixels: int = 10


UPSCALER = UpscalerConfig("upscaler", chunk_frames=1, window=2)
TINY_UPSCALER = UpscalerConfig("tiny-upscaler", width=8, blocks=1, num_heads=1, window_pixels=4)


class Upscaler(nn.Module):
    """Enlarges frames of any size by any of `scales`, chunk after chunk.

    Attributes:
        config: its configuration.
        name, scales: of the configuration.
        chunk_frames: frames of one pass, on a grid that begins with the scene.
        first_chunk_frames, lookahead_frames: `chunk_frames`, and 0; see `StreamingUpscaler`.
        history_frames: no output depends on frames older than this many before its chunk's first; whole chunks.
    """

    lookahead_frames = 0

    def __init__(self, config: UpscalerConfig) -> None:
        super().__init__()
        self.config = config
        self.name, self.scales = config.name, config.scales
        self.chunk_frames = self.first_chunk_frames = config.chunk_frames
        self.history_frames = config.attentions * config.window * config.chunk_frames
        self.plan = KVPlan(config.window)
        width = config.width
        matching = Matching(width, config.num_heads, config.window_pixels, config.window * config.chunk_frames)
        self.rope = matching.rope()
        self.projector = nn.Conv2d(6, width, 3, padding=1)
        self.stages = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(width) for _ in range(config.blocks))) for _ in range(config.attentions + 1)
        )
        self.attentions = nn.ModuleList(
            WindowMatching(matching, shifted=layer % 2 == 1) for layer in range(config.attentions)
        )
        known = width + 6 + config.attentions * matching.new_channels
        self.recall = nn.Conv2d(known, width, 3, padding=1)
        self.refine = ResidualBlock(width)
        self.heads = nn.ModuleDict({str(scale): _head(width, scale) for scale in config.scales})

    @classmethod
    def untrained(cls, config: UpscalerConfig, seed: int = 0) -> "Upscaler":
        """Random weights that depend on `seed` alone, in any thread."""
        with seeded(seed):
            return cls(config).eval()

    def fingerprint(self) -> str:
        """SHA-256 of all weights by name."""
        return weights_fingerprint(self)

    @property
    def trained(self) -> bool:
        """Whether the weights were trained."""
        return self.config.trained

    def working_bytes(self, scale: int, height: int, width: int) -> int:
        """An upper estimate of the bytes of a state and a pass, extrapolated from a small state."""
        pixels = height * width
        state = self.start(scale, _PROBE, _PROBE).bytes * pixels // _PROBE**2
        return state + _FEATURE_COPIES * self.chunk_frames * pixels * self.config.width * 4

    def start(self, scale: int, height: int, width: int, first_frame: int = 0) -> "UpscalerState":
        """The state before a scene's first frame, or before a warm-up inside it.

        Args:
            scale: the enlargement factor.
            height: of the low-resolution frames.
            width: of the low-resolution frames.
            first_frame: the number in its scene of the frame that comes first; a multiple of `chunk_frames`.

        Raises:
            SpecError: the scale is not supported, or the stream cannot begin there.
        """
        if scale not in self.scales:
            raise SpecError(f"scale is {scale}; {self.config.name} enlarges by {' or '.join(map(str, self.scales))}")
        if min(height, width) < 1 or first_frame < 0 or first_frame % self.chunk_frames:
            raise SpecError(
                f"frames of {width}x{height} from number {first_frame}; use at least 1x1 and a multiple of"
                f" {self.chunk_frames}"
            )
        return UpscalerState(self, scale, height, width, first_frame)

    def push(self, frames: Tensor, state: "UpscalerState") -> Tensor:
        """The pictures of all chunks that are complete with `frames`. The remaining frames wait in `state`."""
        device = self.projector.weight.device
        state.held = torch.cat((state.held, frames.to(device)))
        whole = len(state.held) // self.chunk_frames * self.chunk_frames
        chunks = torch.split(state.held[:whole], self.chunk_frames)
        state.held = state.held[whole:].clone()
        none = state.held.new_zeros(0, 3, state.scale * state.height, state.scale * state.width)
        return torch.cat([none, *(self(chunk, state) for chunk in chunks if len(chunk))])

    def finish(self, state: "UpscalerState") -> Tensor:
        """The pictures of the frames that wait, a last chunk that may be short."""
        last, state.held = state.held, state.held[:0]
        return self(last, state) if len(last) else self.push(last, state)

    @torch.no_grad()
    def forward(self, frames: Tensor, state: "UpscalerState") -> Tensor:
        """Enlarge the next chunk, and advance `state` past it.

        Args:
            frames: float32 [f 3 h w] in 0..1, gamma-coded RGB; `chunk_frames` of them, fewer only at a scene's end.
            state: of the frames before.

        Returns:
            float32 [f 3 H W] in 0..1.

        Raises:
            ShapeError: the frames are not what `state` was started for, or come after a scene's end.
        """
        span = state.next_chunk(frames)
        with ExitStack() as stack:
            contexts = [stack.enter_context(store.open(span, BRANCH, write=True)) for store in state.stores]
            large = self.enlarge(frames[None], state.scale, span.frames, contexts)
            for context in contexts:
                context.commit()
        state.advance(span)
        return large[0].clamp(0, 1)

    def enlarge(self, frames: Tensor, scale: int, times: range, contexts: Sequence[AttentionContext]) -> Tensor:
        """One pass over any number of chunks: enlarged frames [b f 3 H W], unclamped.

        Args:
            frames: [b f 3 h w] in 0..1.
            scale: the enlargement factor.
            times: numbers of the frames in their scene.
            contexts: the attention of each layer.
        """
        shown = _flat(torch.cat((frames - 0.5, DETAIL_GAIN * _detail(frames)), dim=2))
        x = self.projector(shown.contiguous(memory_format=torch.channels_last))
        shallow, seen, found = x, Appearance.of(_flat(frames)), []
        for stage, attention, context in zip(self.stages, self.attentions, contexts, strict=False):
            x, new = attention(stage(x), seen, times, context)
            found.append(new)
        x = shallow + self.stages[-1](x)
        known = torch.cat([part.to(x.dtype) for part in (x, shown, *found)], dim=1)
        detail = self.heads[str(scale)](self.refine(functional.relu(self.recall(known))))
        large = functional.interpolate(_flat(frames), scale_factor=scale, mode="bicubic") + detail.float()
        enlarged: Tensor = rearrange(large, "(b f) c h w -> b f c h w", b=frames.shape[0])
        return enlarged

    def num_windows(self, height: int, width: int) -> list[int]:
        """How many windows each attention layer has in a frame of `height` x `width` pixels."""
        return [cast("WindowMatching", layer).num_windows(height, width) for layer in self.attentions]


class UpscalerState:
    """The state of an `Upscaler` within one scene. Its size is constant.

    Args:
        model: the upscaler.
        scale: the enlargement factor.
        height: of the low-resolution frames.
        width: of the low-resolution frames.
        first_frame: the number in its scene of the frame that comes first.

    Attributes:
        held: pushed frames [f 3 h w] that wait for their chunk to be complete.
    """

    def __init__(self, model: Upscaler, scale: int, height: int, width: int, first_frame: int) -> None:
        self.scale, self.height, self.width = scale, height, width
        self._config, self._plan = model.config, model.plan
        self._next_frame = first_frame
        self.held = model.projector.weight.new_zeros(0, 3, height, width, dtype=torch.float32)
        self.stores = [self._store(model, num_windows) for num_windows in model.num_windows(height, width)]

    def _store(self, model: Upscaler, num_windows: int) -> KVStore:
        config, weight = self._config, model.projector.weight
        stream = StreamLayout(STREAM, config.chunk_frames * config.window_pixels**2)
        site = SiteLayout(KIND, 1, config.num_heads, model.rope.head_dim, (stream,))
        store = KVStore(
            [site], self._plan, model.rope, branches=(BRANCH,), dtype=weight.dtype, device=weight.device,
            batch=num_windows,
        )  # fmt: skip
        store.reset(num_commits=self._next_chunk)  # a chunk's page follows from its number, wherever the stream begins
        return store

    @property
    def _next_chunk(self) -> int:
        return ceil(self._next_frame / self._config.chunk_frames)

    @property
    def bytes(self) -> int:
        """Bytes of the state."""
        return sum(store.bytes for store in self.stores)

    def next_chunk(self, frames: Tensor) -> ChunkSpan:
        """The span of the chunk `frames` [f 3 h w] in its scene; `ShapeError` if it cannot be the next one."""
        wanted, most = (3, self.height, self.width), self._config.chunk_frames
        if frames.ndim != 4 or tuple(frames.shape[1:]) != wanted or not 1 <= len(frames) <= most:
            raise ShapeError(f"a chunk is {list(frames.shape)}; this state takes 1 to {most} frames of {list(wanted)}")
        if self._next_frame % most:
            raise ShapeError(
                f"the chunk before frame {self._next_frame} was shorter than {most} frames, which only a scene's last"
                " may be; start another state"
            )
        return _span(self._next_chunk, most, len(frames))

    def advance(self, span: ChunkSpan) -> None:
        """Mark `span` as processed."""
        self._next_frame = span.frames.stop

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of the state, by name."""
        saved = {"held": self.held.clone()}
        for layer, store in enumerate(self.stores):
            branch = store.snapshot()[BRANCH]
            saved["place"] = torch.tensor([self._next_frame, *(page.lengths[STREAM] for page in branch.table.window)])
            saved |= {f"store.{layer}.{number}": page for number, page in enumerate(branch.tensors[SITE])}
        return saved

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Set the state to a `snapshot` of the same model, scale and size."""
        self._next_frame, *lengths = saved["place"].tolist()
        table = self._table(lengths)
        for layer, store in enumerate(self.stores):
            pages = [saved[f"store.{layer}.{number}"] for number in range(2 * len(lengths))]
            store.restore({BRANCH: BranchSnapshot(table, {SITE: pages})})
        self.held = saved["held"].to(self.held, copy=True)

    def _table(self, lengths: Sequence[int]) -> PageTable:
        """The page table of a store whose last pages hold `lengths` tokens."""
        stop, frames = self._next_chunk, self._config.chunk_frames
        pages = [
            Page(chunk, chunk % self._plan.num_pages, {STREAM: length}, Fraction(chunk * frames), Fraction(frames))
            for chunk, length in zip(range(stop - len(lengths), stop), lengths, strict=True)
        ]
        return PageTable(self._plan, window=pages, num_commits=stop)


class ResidualBlock(nn.Module):
    """Two convolutions around a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        with torch.no_grad():
            self.second.weight.mul_(0.2)

    def forward(self, x: Tensor) -> Tensor:
        """Features shaped like `x` [b c h w]."""
        out: Tensor = x + self.second(functional.relu(self.first(x)))
        return out


def _span(chunk: int, chunk_frames: int, num_frames: int) -> ChunkSpan:
    """A chunk of a scene whose time is counted in frames."""
    start = chunk * chunk_frames
    frames = range(start, start + num_frames)
    return ChunkSpan(
        index=chunk, section=0, scene=0, scene_start=0, latents=frames, audio_latents=range(0), frames=frames,
        samples=range(0), start_s=Fraction(start), stop_s=Fraction(start + chunk_frames), ends_section=False,
    )  # fmt: skip


def _head(width: int, scale: int) -> nn.Sequential:
    last = nn.Conv2d(width, 3 * scale**2, 3, padding=1)
    with torch.no_grad():  # an untrained model is close to the bicubic enlargement
        last.weight.mul_(0.1)
        last.bias.zero_()  # type: ignore[union-attr]
    return nn.Sequential(last, nn.PixelShuffle(scale))


def _detail(frames: Tensor) -> Tensor:
    """The difference of each pixel of [b f 3 h w] from the mean of its 3 x 3 neighbourhood."""
    flat = _flat(frames)
    mean = functional.avg_pool2d(functional.pad(flat, [1] * 4, mode="replicate"), 3, 1)
    return rearrange(flat - mean, "(b f) c h w -> b f c h w", b=frames.shape[0])


def _flat(x: Tensor) -> Tensor:
    return rearrange(x, "b f c h w -> (b f) c h w")
