"""A small causal upscaler: low-resolution frames in, frames of two or four times the size out, for as long as it runs.

Frames pass in chunks. A projector looks at each frame and the few before it; a trunk of convolutions follows, with
attention in between, where square windows of the picture see the same window in the chunks before, kept in a KV store.
The decoder sees the features, those of the frame before and the low-resolution frame itself, and adds what it finds to
a bicubic enlargement. Everything but the last layer is shared by all scales.

All that reaches back is bounded, so an output depends on no frame that is older than `Upscaler.history_frames`, and a
scene may be entered anywhere after a warm-up of that length. To the bit: where a chunk's keys lie in the store, and
how they are rotated, follows from the chunk's number in its scene alone.

Shapes: b clips, f frames, c channels, h w low-resolution pixels, H W high-resolution pixels, l tokens of a window in
one chunk, n heads, d head width; inside a picture: i j windows down and across, y x tokens of a window, p q pixels of
a token.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from threading import Lock
from typing import NamedTuple, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from pipeline.attention.context import QKV, AttentionContext, Site
from pipeline.attention.kv_plan import KVPlan, Page, PageTable, SiteLayout, StreamLayout
from pipeline.attention.kv_store import BranchSnapshot, KVStore
from pipeline.attention.rope import Rope, geometric
from pipeline.clock import ChunkSpan
from pipeline.errors import ShapeError, SpecError
from pipeline.models.fingerprint import weights_fingerprint

BRANCH, KIND, STREAM = "frames", "window", "video"
DETAIL_GAIN = 8.0
"""Fine detail is shown to the network apart, and this much stronger; without, it does not learn for a long time."""

SITE = Site(0, KIND)  # every layer has a store of its own, since each cuts the picture into other windows

_SEEDING = Lock()
"""PyTorch's seed belongs to the process, so one model is made at a time."""


@dataclass(frozen=True)
class UpscalerConfig:
    """What an `Upscaler` is made of; kept beside its weights.

    Args:
        name: the model's name.
        trained: whether the weights were trained, or are random and only show that the road works.
        scales: by how much it can enlarge.
        chunk_frames: frames of one pass.
        window: chunks before the current one that a layer's attention sees.
        past_frames: frames before each that the projector sees with it.
        width: channels of a pixel's features.
        blocks: residual blocks before, between and behind the attention layers.
        attentions: attention layers.
        num_heads: of each; a head is 16 wide.
        token: side of the square of pixels that is one token.
        window_tokens: side of the square of tokens in which attention is at home.
    """

    name: str
    trained: bool = False
    scales: tuple[int, ...] = (2, 4)
    chunk_frames: int = 4
    window: int = 3
    past_frames: int = 1
    width: int = 32
    blocks: int = 2
    attentions: int = 2
    num_heads: int = 2
    token: int = 2
    window_tokens: int = 6


UPSCALER = UpscalerConfig("upscaler", chunk_frames=2, window=6)
TINY_UPSCALER = UpscalerConfig("tiny-upscaler", width=8, blocks=1, num_heads=1, window_tokens=4)


class Memory(NamedTuple):
    """What the convolutions remember: the last frames as the projector saw them [b f 6 h w], and the last frame's
    features [b 1 c h w]."""

    frames: Tensor
    features: Tensor


class Upscaler(nn.Module):
    """Enlarges frames of any size by any of `scales`, chunk after chunk; see the head of this file.

    Attributes:
        config: what it is made of.
        scales: by how much it can enlarge.
        chunk_frames: frames of one pass, on a grid that begins with the scene.
        history_frames: no output depends on frames older than this many before its chunk's first; whole chunks.
    """

    def __init__(self, config: UpscalerConfig) -> None:
        super().__init__()
        self.config = config
        self.scales, self.chunk_frames = config.scales, config.chunk_frames
        # The decoder's memory is a frame of the chunk before, the projector's lies before whatever is seen.
        chunks = 1 + config.attentions * config.window + ceil(config.past_frames / config.chunk_frames)
        self.history_frames = chunks * config.chunk_frames
        self.plan = KVPlan(config.window)
        self.rope = Rope.of_axes((geometric(0.5, 0.1, 2), geometric(1.2, 0.2, 3), geometric(1.2, 0.2, 3)))
        width = config.width
        self.projector = nn.Conv2d(6 * (config.past_frames + 1), width, 3, padding=1)
        self.stages = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(width) for _ in range(config.blocks))) for _ in range(config.attentions + 1)
        )
        self.attentions = nn.ModuleList(
            WindowAttention(config, self.rope.head_dim, shifted=layer % 2 == 1) for layer in range(config.attentions)
        )
        self.recall = nn.Conv2d(2 * width + 6, width, 3, padding=1)
        self.refine = ResidualBlock(width)
        self.heads = nn.ModuleDict({str(scale): _head(width, scale) for scale in config.scales})

    @classmethod
    def untrained(cls, config: UpscalerConfig, seed: int = 0) -> "Upscaler":
        """Random weights that depend on `seed` alone, whichever thread asks."""
        with _SEEDING, torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config).eval()

    def fingerprint(self) -> str:
        """SHA-256 of all weights by name."""
        return weights_fingerprint(self)

    def start(self, scale: int, height: int, width: int, first_chunk: int = 0) -> "UpscalerState":
        """The state before a scene's first frame, or before a warm-up inside it.

        Args:
            scale: by how much to enlarge.
            height: of the low-resolution frames.
            width: of the low-resolution frames.
            first_chunk: the number in its scene of the chunk that comes first.

        Raises:
            SpecError: it cannot enlarge by `scale`.
        """
        if scale not in self.scales:
            raise SpecError(f"scale is {scale}; {self.config.name} enlarges by {' or '.join(map(str, self.scales))}")
        if min(height, width) < 1 or first_chunk < 0:
            raise SpecError(f"frames of {width}x{height} from chunk {first_chunk}; use at least 1x1 and chunk 0")
        return UpscalerState(self, scale, height, width, first_chunk)

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
        padded = _pad_to(frames, self.config.token)[None]
        with ExitStack() as stack:
            contexts = [stack.enter_context(store.open(span, BRANCH, write=True)) for store in state.stores]
            large, memory = self.enlarge(padded, state.scale, state.memory, span.frames, contexts)
            for context in contexts:
                context.commit()
        state.advance(span, memory)
        return large[0, :, :, : state.scale * state.height, : state.scale * state.width].clamp(0, 1)

    def enlarge(
        self, frames: Tensor, scale: int, memory: Memory, times: range, contexts: Sequence[AttentionContext]
    ) -> tuple[Tensor, Memory]:
        """One pass over any number of chunks: enlarged frames [b f 3 H W], unclamped, and what is to be remembered.

        Args:
            frames: [b f 3 h w] in 0..1, whose sides are multiples of a token's.
            scale: by how much to enlarge.
            memory: of the frames before.
            times: numbers of the frames in their scene.
            contexts: the attention of each layer.
        """
        b, past = frames.shape[0], self.config.past_frames
        shown = torch.cat((frames - 0.5, DETAIL_GAIN * _detail(frames)), dim=2)
        seen = torch.cat((memory.frames, shown), dim=1)
        stacked = torch.cat([seen[:, age : age + len(times)] for age in range(past + 1)], dim=2)
        x = self.projector(_flat(stacked).contiguous(memory_format=torch.channels_last))
        shallow = x
        for stage, attention, context in zip(self.stages, self.attentions, contexts, strict=False):
            x = attention(stage(x), times, context)
        x = shallow + self.stages[-1](x)
        features = rearrange(x, "(b f) c h w -> b f c h w", b=b)
        before = torch.cat((memory.features.to(features.dtype), features[:, :-1]), dim=1)
        known = torch.cat((x, _flat(before), _flat(shown).to(x.dtype)), dim=1)
        detail = self.heads[str(scale)](self.refine(functional.relu(self.recall(known))))
        large = functional.interpolate(_flat(frames), scale_factor=scale, mode="bicubic") + detail.float()
        kept = Memory(seen[:, seen.shape[1] - past :], features[:, -1:])
        return rearrange(large, "(b f) c h w -> b f c h w", b=b), kept

    def num_windows(self, height: int, width: int) -> list[int]:
        """How many windows each attention layer cuts a picture of `height` x `width` pixels into."""
        return [cast("WindowAttention", layer).num_windows(height, width) for layer in self.attentions]

    def blank(self, batch: int, height: int, width: int) -> Memory:
        """The memory before a scene's first frame, for frames whose sides are multiples of a token's."""
        weight = self.projector.weight
        return Memory(
            weight.new_zeros(batch, self.config.past_frames, 6, height, width),
            weight.new_zeros(batch, 1, self.config.width, height, width),
        )


class UpscalerState:
    """What an `Upscaler` remembers of one scene; as large after a million frames as after one.

    Args:
        model: whose state it is.
        scale: by how much it enlarges.
        height: of the low-resolution frames.
        width: of the low-resolution frames.
        first_chunk: the number in its scene of the chunk that comes first.
    """

    def __init__(self, model: Upscaler, scale: int, height: int, width: int, first_chunk: int) -> None:
        self.scale, self.height, self.width = scale, height, width
        self._config, self._plan = model.config, model.plan
        self._next_frame = first_chunk * model.chunk_frames
        padded = [side + -side % model.config.token for side in (height, width)]
        self.memory = model.blank(1, *padded)
        self.stores = [self._store(model, num_windows) for num_windows in model.num_windows(*padded)]

    def _store(self, model: Upscaler, num_windows: int) -> KVStore:
        config, weight = self._config, model.projector.weight
        stream = StreamLayout(STREAM, config.chunk_frames * config.window_tokens**2)
        site = SiteLayout(KIND, 1, config.num_heads, model.rope.head_dim, (stream,))
        store = KVStore(
            [site], self._plan, model.rope, branches=(BRANCH,), dtype=weight.dtype, device=weight.device,
            batch=num_windows,
        )  # fmt: skip
        # A chunk's page follows from its number, so that keys are summed in the same order wherever one begins.
        store.restore({BRANCH: BranchSnapshot(PageTable(self._plan, turns=self._next_chunk), {})})
        return store

    @property
    def _next_chunk(self) -> int:
        return ceil(self._next_frame / self._config.chunk_frames)

    @property
    def bytes(self) -> int:
        """Bytes of everything that is remembered."""
        return sum(store.bytes for store in self.stores) + sum(x.numel() * x.element_size() for x in self.memory)

    def next_chunk(self, frames: Tensor) -> ChunkSpan:
        """Where the chunk of `frames` [f 3 h w] lies in its scene; raises `ShapeError` if it is not the next one."""
        wanted, most = (3, self.height, self.width), self._config.chunk_frames
        if frames.ndim != 4 or tuple(frames.shape[1:]) != wanted or not 1 <= len(frames) <= most:
            raise ShapeError(f"a chunk is {list(frames.shape)}; this state takes 1 to {most} frames of {list(wanted)}")
        if self._next_frame % most:
            raise ShapeError(
                f"the chunk before frame {self._next_frame} was shorter than {most} frames, which only a scene's last"
                " may be; start another state"
            )
        return _span(self._next_chunk, most, len(frames))

    def advance(self, span: ChunkSpan, memory: Memory) -> None:
        """Take in that `span` is done."""
        self._next_frame = span.frames.stop
        for old, new in zip(self.memory, memory, strict=True):
            old.copy_(new)

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of everything that is remembered, by name."""
        saved = {name: tensor.clone() for name, tensor in self.memory._asdict().items()}
        for layer, store in enumerate(self.stores):
            branch = store.snapshot()[BRANCH]
            saved["place"] = torch.tensor([self._next_frame, *(page.lengths[STREAM] for page in branch.table.window)])
            saved |= {f"store.{layer}.{number}": page for number, page in enumerate(branch.tensors[SITE])}
        return saved

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Put back what `snapshot` of a state of the same model, scale and size gave."""
        self._next_frame, *lengths = saved["place"].tolist()
        table = self._table(lengths)
        for layer, store in enumerate(self.stores):
            pages = [saved[f"store.{layer}.{number}"] for number in range(2 * len(lengths))]
            store.restore({BRANCH: BranchSnapshot(table, {SITE: pages})})
        for name, tensor in self.memory._asdict().items():
            tensor.copy_(saved[name])

    def _table(self, lengths: Sequence[int]) -> PageTable:
        """The store's book-keeping when its last pages hold `lengths` tokens."""
        stop, frames = self._next_chunk, self._config.chunk_frames
        pages = [
            Page(chunk, chunk % self._plan.num_pages, {STREAM: length}, Fraction(chunk * frames), Fraction(frames))
            for chunk, length in zip(range(stop - len(lengths), stop), lengths, strict=True)
        ]
        return PageTable(self._plan, window=pages, turns=stop)


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


class WindowAttention(nn.Module):
    """Attention of every window of the picture over itself and its past, added to the features.

    Args:
        config: of the model.
        head_dim: width of a head.
        shifted: whether windows begin half a window outside the picture, so that layers in turn bridge their borders.
    """

    def __init__(self, config: UpscalerConfig, head_dim: int, shifted: bool) -> None:
        super().__init__()
        self._token, self._side, self._num_heads = config.token, config.window_tokens, config.num_heads
        self._before = config.window_tokens // 2 if shifted else 0
        width, inner = config.token**2 * config.width, config.num_heads * head_dim
        self.norm = nn.LayerNorm(width)
        self.enter = nn.Linear(width, 3 * inner)
        self.leave = nn.Linear(inner, width)
        with torch.no_grad():  # what is near is looked at first, in place and in time
            self.enter.bias[: 2 * inner] = 1.0

    def num_windows(self, height: int, width: int) -> int:
        """Windows that hold a picture of `height` x `width` pixels."""
        rows, columns = (self._before + side // self._token for side in (height, width))
        return ceil(rows / self._side) * ceil(columns / self._side)

    def forward(self, x: Tensor, times: range, context: AttentionContext) -> Tensor:
        """Features shaped like `x` [(b f) c h w], whose frames have the numbers `times`."""
        p, f = self._token, len(times)
        tokens = rearrange(x, "(b f) c (h p) (w q) -> b f h w (p q c)", f=f, p=p, q=p)
        entered = self._windows(self.enter(self.norm(tokens)), kinds=3)
        positions = self._positions(times)
        seen = context.attend(SITE, {STREAM: QKV(*entered)}, {STREAM: positions})[STREAM]
        left = self.leave(self._picture(seen, f, *tokens.shape[2:4]))
        out: Tensor = x + rearrange(left, "b f h w (p q c) -> (b f) c (h p) (w q)", p=p, q=p)
        return out

    def _windows(self, tokens: Tensor, kinds: int) -> Tensor:
        """[b f h w (k n d)] -> [k (b i j) n (f y x) d], with zeros where windows reach out of the picture."""
        before, side = self._before, self._side
        down, across = (-(before + size) % side for size in tokens.shape[2:4])
        padded = functional.pad(tokens, (0, 0, before, across, before, down))
        return rearrange(
            padded, "b f (i y) (j x) (k n d) -> k (b i j) n (f y x) d", y=side, x=side, k=kinds, n=self._num_heads
        )

    def _picture(self, tokens: Tensor, f: int, height: int, width: int) -> Tensor:
        """The way back: [(b i j) n (f y x) d] -> [b f h w (n d)], for `height` x `width` tokens."""
        before, side = self._before, self._side
        rows, columns = (ceil((before + size) / side) for size in (height, width))
        whole = rearrange(
            tokens, "(b i j) n (f y x) d -> b f (i y) (j x) (n d)", i=rows, j=columns, f=f, y=side, x=side
        )
        return whole[:, :, before : before + height, before : before + width]

    def _positions(self, times: range) -> Tensor:
        """Where a window's tokens are: frames, and pixels from its corner, float64 [l 3]."""
        pixels = torch.arange(self._side, dtype=torch.float64) * self._token
        frames = torch.arange(times.start, times.stop, dtype=torch.float64)
        return torch.cartesian_prod(frames, pixels, pixels)


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
    with torch.no_grad():  # an untrained model is nearly the bicubic enlargement
        last.weight.mul_(0.1)
        last.bias.zero_()  # type: ignore[union-attr]
    return nn.Sequential(last, nn.PixelShuffle(scale))


def _detail(frames: Tensor) -> Tensor:
    """What sets each pixel of [b f 3 h w] apart from the mean of the nine around it."""
    flat = _flat(frames)
    mean = functional.avg_pool2d(functional.pad(flat, [1] * 4, mode="replicate"), 3, 1)
    return rearrange(flat - mean, "(b f) c h w -> b f c h w", b=frames.shape[0])


def _flat(x: Tensor) -> Tensor:
    return rearrange(x, "b f c h w -> (b f) c h w")


def _pad_to(frames: Tensor, multiple: int) -> Tensor:
    """Frames [f 3 h w] whose sides are multiples, their last pixels repeated."""
    down, across = (-side % multiple for side in frames.shape[2:])
    return functional.pad(frames, (0, across, 0, down), mode="replicate") if down or across else frames
