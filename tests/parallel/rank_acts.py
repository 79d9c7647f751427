"""What each rank of `test_context_parallel.py` does."""

from fractions import Fraction
from functools import cache
from typing import Any

import torch
from torch import Tensor

from longtake.jobs.bench.parity import compare_all
from longtake.jobs.bench.parity_cases import SIGMA, Case, Film, film, relative
from longtake.pipeline.attention.context import QKV, Pass, Site
from longtake.pipeline.attention.kv_plan import KVPlan, SiteLayout, StreamLayout
from longtake.pipeline.attention.kv_store import KVStore
from longtake.pipeline.attention.mask import Visibility
from longtake.pipeline.attention.rope import Rope
from longtake.pipeline.attention.shares import Grid
from longtake.pipeline.clock import ChunkSpan
from longtake.pipeline.errors import CapacityError
from longtake.pipeline.parallel.context_parallel import ContextParallel, context_parallel
from longtake.pipeline.parallel.degrees import Degrees
from longtake.pipeline.parallel.gang import ONE_RANK, Parallel
from longtake.pipeline.parallel.sharded_denoiser import ShardedDenoiser
from longtake.pipeline.parallel.traffic import SiteTraffic

U2, U3, U4 = (Degrees(ulysses=n) for n in (2, 3, 4))
R2, R3, R4 = (Degrees(ring=n) for n in (2, 3, 4))
ONE, HYBRID, CFG, CFG_RING = Degrees(), Degrees(2, 2), Degrees(cfg=2), Degrees(ring=2, cfg=2)

CASES = [
    *(Case(degrees, heads) for degrees, heads in ((U2, 3), (R2, 4), (U3, 4), (R3, 5), (U4, 3), (R4, 12))),
    *(Case(HYBRID, heads) for heads in (3, 12)),
    *(Case(degrees, 3, (1, 1)) for degrees in (U4, R4, HYBRID)),
    *(Case(degrees, 5, dtype=torch.float32) for degrees in (U4, R4, HYBRID)),
    *(Case(degrees, 3) for degrees in (CFG, CFG_RING)),
    Case(HYBRID, 3, sharded=("video", "audio")),
    *(Case(degrees, 3, dtype=torch.float32, client="wan") for degrees in (U2, R3, HYBRID)),
    *(Case(degrees, 3, masked=True) for degrees in (U3, R4, HYBRID)),
    Case(HYBRID, 3, dtype=torch.float32, client="wan", masked=True),
]

GLOO_CASES = [Case(HYBRID, 3), Case(U3, 4), Case(R4, 5, (1, 1)), Case(CFG_RING, 3, dtype=torch.float32)]


@torch.inference_mode()
def act(rank: int) -> dict[Any, Any]:
    """The checks that run in real processes, in the same order on every rank."""
    done: dict[Any, Any] = dict(compare_all(GLOO_CASES, 0, rank))
    hybrid = context_parallel(HYBRID)
    done.update(moved=moved(hybrid), traffic=traffic(hybrid))
    return {**done, "second opinion": second_opinion(context_parallel(U4))}


@cache
def by_one_rank() -> tuple[Film, list[dict[str, Tensor]]]:
    """A film, and the velocities of its chunks by one rank."""
    whole = film(Case(ONE, 5))
    return whole, list(whole.velocities())


def moved(parallel: ContextParallel) -> float:
    """A store moves from one rank to several in the middle of a film, and back: the largest difference."""
    whole, expected = by_one_rank()
    got: list[dict[str, Tensor]] = []
    snapshot = None
    for gang, chunks in ((ONE_RANK, whole.chunks[:4]), (parallel, whole.chunks[4:7]), (ONE_RANK, whole.chunks[7:])):
        store = whole.store(gang)
        if snapshot is not None:
            store.restore(snapshot)
        got += [whole.render(store, chunk, gang) for chunk in chunks]
        snapshot = store.snapshot()
    return max(relative(one[key], other[key]) for one, other in zip(got, expected, strict=True) for key in other)


def aborted(parallel: ContextParallel) -> bool:
    """Whether a pass that is never committed leaves the sharded store as it was, bit for bit."""
    whole = film(Case(ONE, 5, dtype=torch.float32))
    store, chunk = whole.store(parallel), whole.chunks[4]
    for earlier in whole.chunks[:4]:
        whole.render(store, earlier, parallel)
    before = store.snapshot()
    for sigma, write in ((SIGMA, False), (0.0, True)):
        with store.open(chunk, "guided", write=write) as context:
            ShardedDenoiser(whole.denoiser, parallel)(
                whole.streams(chunk, sigma), whole.prompt(chunk, "guided"), context, Pass(0, "guided")
            )
    after = store.snapshot()
    return all(
        pages.table.pages == after[branch].table.pages
        and all(
            torch.equal(a, b)
            for site in pages.tensors
            for a, b in zip(pages.tensors[site], after[branch].tensors[site], strict=True)
        )
        for branch, pages in before.items()
    )


def refused(parallel: ContextParallel) -> str:
    """The error of every rank for a chunk that fits only the pages of some ranks."""
    store = site_store(parallel)
    with store.open(span(0), "guided") as context:
        try:
            attend_everywhere(context, parallel, frames=4, seed=0)
        except CapacityError as error:
            return str(error)
    return ""


KINDS = {
    "joint": {"video": "qk", "audio": "qk", "text": "k"},
    "video_self": {"video": "qk"},
    "audio_self": {"audio": "qk"},
    "a2v": {"video": "q", "audio": "k"},
    "v2a": {"video": "k", "audio": "q"},
    "video_text": {"video": "q", "text": "k"},
}
"""Sites of all kinds: which streams have queries there, and which have keys."""

FRAMES, SIZE, AUDIO, TEXT, HEADS, HEAD_DIM = 3, 5, 7, 4, 5, 8
ROPE = Rope.of_axes([(1.0, 0.1), (0.5, 0.3)])
CHUNK_FRAMES = (3, 2, 3, 1, 3, 3)


def site_store(parallel: Parallel, rope: Rope = ROPE) -> KVStore:
    """A store with one site of each kind."""
    tokens = {"video": FRAMES * SIZE, "audio": AUDIO, "text": TEXT}
    layouts = []
    for kind, streams in KINDS.items():
        pages = (
            StreamLayout(
                name,
                tokens[name] if "k" in role else 0,
                kept=name != "text" and "k" in role,
                frame_tokens=SIZE if name == "video" else 1,
            )
            for name, role in streams.items()
        )
        layouts.append(SiteLayout(kind, 1, HEADS, HEAD_DIM, tuple(pages)))
    return KVStore(layouts, KVPlan(2, 1), rope, dtype=torch.float64, parallel=parallel)


def span(index: int) -> ChunkSpan:
    second = range(index, index + 1)
    return ChunkSpan(index, 0, 0, 0, second, second, second, second, Fraction(index), Fraction(index + 1), False)


def attend_everywhere(context: Any, parallel: Parallel, frames: int, seed: int) -> dict[str, Tensor]:
    """Random tokens at every site, each rank with its own; the whole outputs."""
    generator = torch.Generator().manual_seed(seed)
    tokens = {"video": frames * SIZE, "audio": AUDIO, "text": TEXT}
    found = {}
    for kind, streams in KINDS.items():
        qkv, positions = {}, {}
        for name, role in streams.items():
            q, k, v = torch.randn(3, 1, HEADS, tokens[name], HEAD_DIM, generator=generator, dtype=torch.float64)
            where = seed + torch.rand(tokens[name], 2, generator=generator, dtype=torch.float64)
            if name == "video":
                columns = parallel.columns("video", SIZE)
                q, k, v = (x.unflatten(2, (frames, SIZE))[:, :, :, columns].flatten(2, 3) for x in (q, k, v))
            if "k" not in role:
                k, v = k[:, :, :0], v[:, :, :0]
            qkv[name] = QKV(q if "q" in role else None, k, v)
            if name != "text" and kind != "video_text":
                positions[name] = where
        for name, out in context.attend(Site(0, kind), qkv, positions).items():
            x = out.transpose(1, 2).flatten(2)
            if name == "video":
                x = parallel.gather("video", x.unflatten(1, (frames, -1)), SIZE).flatten(1, 2)
            found[f"{kind} {name}"] = x
    return found


@cache
def sites_of_one_rank(visibility: Visibility | None) -> list[dict[str, Tensor]]:
    """The outputs of sites of all kinds by one rank, over chunks that fill the sink and the window and then move on."""
    store, outputs = site_store(ONE_RANK), []
    for index, frames in enumerate(CHUNK_FRAMES):
        with store.open(span(index), "guided", write=True, visibility=visibility) as context:
            outputs.append(attend_everywhere(context, ONE_RANK, frames, seed=index))
            context.commit()
    return outputs


def sites(parallel: ContextParallel, visibility: Visibility | None = None) -> dict[str, float]:
    """The largest differences from one rank, by site and stream."""
    store, alone = site_store(parallel), sites_of_one_rank(visibility)
    worst: dict[str, float] = {}
    for index, frames in enumerate(CHUNK_FRAMES):
        with store.open(span(index), "guided", write=True, visibility=visibility) as context:
            got = attend_everywhere(context, parallel, frames, seed=index)
            for key, expected in alone[index].items():
                same = torch.equal(got[key], expected)  # also where all is masked, and zero
                worst[key] = max(worst.get(key, 0.0), 0.0 if same else relative(got[key], expected))
            context.commit()
    return worst


def traffic(parallel: ContextParallel) -> tuple[int, int]:
    """Bytes that this rank sent for the attention of one pass, and the prediction for all ranks."""
    whole = film(Case(ONE, 5, dtype=torch.float32))
    store, chunk = whole.store(parallel), whole.chunks[0]
    before = parallel.ulysses.sent_bytes + parallel.ring.sent_bytes
    with store.open(chunk, "guided") as context:
        ShardedDenoiser(whole.denoiser, parallel)(
            whole.streams(chunk, SIGMA), whole.prompt(chunk, "guided"), context, Pass(0, "guided")
        )
    streams = {"video": Grid(3, 9), "audio": Grid(1, len(chunk.audio_latents))}
    site = SiteTraffic(5, 8, streams, streams, item_bytes=4, sharded=("video",))
    layers = 2
    return parallel.ulysses.sent_bytes + parallel.ring.sent_bytes - before, layers * site.sent_bytes(parallel.degrees)


class LocalAttention(torch.nn.Module):
    """PyTorch's own attention over [b l h d], with the signature that DeepSpeed expects."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> Tensor:
        out = torch.nn.functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)))
        return out.transpose(1, 2).contiguous()


def second_opinion(parallel: ContextParallel) -> float:
    """The difference of our Ulysses from DeepSpeed's, within its restrictions: even heads and tokens, no cache."""
    import deepspeed.comm
    import deepspeed.ops
    from deepspeed.sequence.layer import DistributedAttention

    # It would be compiled now, for half a minute, and is not what exchanges the heads.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.comm.init_distributed("gloo", auto_mpi_discovery=False, verbose=False)
    theirs = DistributedAttention(LocalAttention(), deepspeed.comm.get_world_group(), scatter_idx=2, gather_idx=1)
    frames, size, heads = 3, 8, 4
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(3, 1, heads, frames, size, HEAD_DIM, generator=generator, dtype=torch.float64)
    q, k, v = tokens[..., parallel.columns("video", size), :].flatten(3, 4)
    positions = torch.rand(frames, size, 2, generator=generator, dtype=torch.float64)
    rope = Rope.of_axes([(1.0, 0.1), (0.5, 0.3)])
    layout = SiteLayout("video_self", 1, heads, HEAD_DIM, (StreamLayout("video", frames * size, frame_tokens=size),))
    store = KVStore([layout], KVPlan(1), rope, dtype=torch.float64, parallel=parallel)
    with store.open(span(0), "guided") as context:
        whole = {"video": positions.flatten(0, 1)}
        ours = context.attend(Site(0, "video_self"), {"video": QKV(q, k, v)}, whole)["video"]
    rotate = rope.rotation(positions[:, parallel.columns("video", size)].flatten(0, 1))
    expected = theirs(*(x.transpose(1, 2).contiguous() for x in (rotate(q), rotate(k), v)), 0)
    return relative(ours.transpose(1, 2), expected)
