"""The spine: cached = uncached, aborted = untouched, late = early, resumed = undisturbed."""

from collections.abc import Sequence
from copy import copy, deepcopy
from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from longtake.pipeline.attention.context import ChunkCausalContext, ChunkLengths, Pass
from longtake.pipeline.attention.kv_plan import KVPlan, store_bytes
from longtake.pipeline.clock import ChunkSpan, MediaClock
from longtake.pipeline.errors import CapacityError
from longtake.pipeline.models.blocks import predict
from longtake.pipeline.models.embedded import EmbeddedModel
from longtake.pipeline.models.protocols import Stream
from longtake.pipeline.values import LatentChunk
from tests.tiny import LATENT_SIZE, prompts, random_latents, tiny_chunks, tiny_model, tiny_rollout, tiny_store

TEXTS = ("a red circle bounces fast", "a blue square rests", "a green triangle glides on a dark background")
SIGMA = 0.6


def stream(clock: MediaClock, parts: Sequence[LatentChunk], sigmas: Sequence[float]) -> dict[str, Stream]:
    """Chunks one after another in one pass, each at its own noise level."""
    video = torch.cat([part.video for part in parts]).unsqueeze(0)
    audio = torch.cat([part.audio for part in parts]).unsqueeze(0)
    out = {}
    for name, x, times, count in (
        ("video", video, clock.video_times, lambda part: len(part.span.latents)),
        ("audio", audio, clock.audio_times, lambda part: len(part.span.audio_latents)),
    ):
        sigma = torch.cat([x.new_full((1, count(part)), s) for part, s in zip(parts, sigmas, strict=True)], dim=1)
        seconds = torch.tensor([t for part in parts for t in times(part.span)], dtype=torch.float64)
        out[name] = Stream(x, sigma, seconds)
    return out


def uncached_velocity(
    model: EmbeddedModel, clock: MediaClock, plan: KVPlan, parts: list[LatentChunk], text: torch.Tensor
):
    """The reference: one chunk-causal forward over clean history and the noisy last chunk, without a cache."""
    patches = (LATENT_SIZE // model.config.denoiser.patch) ** 2
    lengths = [
        ChunkLengths(
            {"video": len(part.span.latents) * patches, "audio": len(part.span.audio_latents)},
            part.span.start_s,
            part.span.stop_s,
        )
        for part in parts
    ]
    streams = stream(clock, parts, [0.0] * (len(parts) - 1) + [SIGMA])
    context = ChunkCausalContext(lengths, plan, model.denoiser.rope)
    velocity = predict(model.denoiser, streams, text.unsqueeze(0), context)
    last = parts[-1].span
    return {
        "video": velocity["video"][:, -len(last.latents) :],
        "audio": velocity["audio"][:, -len(last.audio_latents) :],
    }


@pytest.mark.parametrize("fps", [Fraction(16), Fraction(24000, 1001)], ids=["16", "24000/1001"])
@pytest.mark.parametrize(("window", "sink", "refresh"), [(1, 0, None), (2, 1, 3), (3, 2, 5), (2, 0, 1)])
@torch.inference_mode()
def test_cached_attention_equals_the_uncached_forward(window, sink, refresh, fps):
    model, plan = tiny_model(), KVPlan(window, sink, refresh)
    clock = model.clock(fps)
    chunks = tiny_chunks(clock, [6.3, 1.6, 2.1] if fps == 16 else [4.3, 1.1, 1.4], [True, False, True])
    store = tiny_store(model, plan, chunks)
    rollout = tiny_rollout(model, store, clock)
    finished: dict[int, LatentChunk] = {}
    worst = 0.0
    for chunk in chunks:
        scene = prompts(model, TEXTS[chunk.scene])
        if plan.is_canonical(chunk.scene_start, chunk.index):
            rollout.rebuild(chunk, scene)
        canonical = plan.last_canonical(chunk.scene_start, chunk.index)
        history = [*plan.visible(chunk.section, canonical), *range(canonical, chunk.index)]
        noisy = random_latents(chunk, seed=2)
        for branch, prompt in scene.items():
            with store.open(chunk, branch) as context:
                cached = predict(model.denoiser, stream(clock, [noisy], [SIGMA]), prompt.tokens.unsqueeze(0), context)
            parts = [*(finished[index] for index in history), noisy]
            plain = uncached_velocity(model, clock, plan, parts, prompt.tokens)
            worst = max(worst, *(float((cached[name] - plain[name]).abs().max()) for name in cached))
        finished[chunk.index] = random_latents(chunk)
        rollout._remember(finished[chunk.index])
        rollout.clean_pass(finished[chunk.index], scene)
    assert len(chunks) > plan.num_pages + 2, "the film is too short to fill the window"
    assert worst <= 1e-10


def shifted_by(chunk: ChunkSpan, num_chunks: int, section: bool) -> ChunkSpan:
    """The same chunk, `num_chunks` whole chunks of one second later; the section stays unless it moves along."""
    move = lambda span, per_chunk: range(span.start + num_chunks * per_chunk, span.stop + num_chunks * per_chunk)  # noqa: E731
    return replace(
        chunk,
        index=chunk.index + num_chunks,
        section=chunk.section + num_chunks * section,
        scene_start=chunk.scene_start + num_chunks * section,
        latents=move(chunk.latents, 4),
        audio_latents=move(chunk.audio_latents, 20),
        frames=move(chunk.frames, 16),
        samples=move(chunk.samples, 16_000),
        start_s=chunk.start_s + num_chunks,
        stop_s=chunk.stop_s + num_chunks,
    )


@pytest.mark.parametrize("sink", [0, 2])
@torch.inference_mode()
def test_chunk_10000_equals_chunk_10_for_the_same_window(sink):
    model, plan = tiny_model(), KVPlan(window=3, sink=sink)
    clock = model.clock(Fraction(16))
    chunks = tiny_chunks(clock, [11], [True])
    scene = prompts(model, TEXTS[0])

    def velocity(late: int) -> dict[str, torch.Tensor]:
        store = tiny_store(model, plan, chunks)
        rollout = tiny_rollout(model, store, clock)
        moved = [chunk if chunk.index < sink else shifted_by(chunk, late, section=False) for chunk in chunks]
        for index in plan.visible(0, 10):
            latents = random_latents(chunks[index])
            rollout.clean_pass(replace(latents, span=moved[index]), scene)
        assert store.chunks("guided") == [moved[index].index for index in plan.visible(0, 10)]
        with store.open(moved[10], "guided") as context:
            noisy = replace(random_latents(chunks[10], seed=2), span=moved[10])
            return predict(
                model.denoiser, stream(clock, [noisy], [SIGMA]), scene["guided"].tokens.unsqueeze(0), context
            )

    early, late = velocity(0), velocity(9990)
    for name in early:
        torch.testing.assert_close(late[name], early[name], rtol=0, atol=1e-10)


def render(rollout, chunks, model) -> list[LatentChunk]:
    return [rollout.denoise(chunk, prompts(model, TEXTS[chunk.scene])) for chunk in chunks]


def same_snapshots(one, other) -> bool:
    return all(
        one[branch].table.pages == other[branch].table.pages
        and all(
            torch.equal(a, b)
            for site in one[branch].tensors
            for a, b in zip(one[branch].tensors[site], other[branch].tensors[site], strict=True)
        )
        for branch in one
    )


def one_step(model, store, clock, seed=5):
    return tiny_rollout(model, store, clock, steps=1, seed=seed)


@pytest.fixture
def film():
    model, plan = tiny_model(torch.float32), KVPlan(window=2, sink=1, refresh_chunks=5)
    clock = model.clock(Fraction(16))
    chunks = tiny_chunks(clock, [7, 2.25, 1], [True, False, True])
    store = tiny_store(model, plan, chunks)
    return model, clock, chunks, store, one_step(model, store, clock)


@torch.inference_mode()
def test_an_aborted_chunk_leaves_the_store_bit_identical(film):
    model, clock, chunks, store, rollout = film
    render(rollout, chunks[:6], model)
    before = store.snapshot()
    scene = prompts(model, TEXTS[0])
    noisy = stream(clock, [random_latents(chunks[6], torch.float32)], [SIGMA])
    for write in (False, True):
        with store.open(chunks[6], "guided", write=write) as context:
            predict(model.denoiser, noisy, scene["guided"].tokens[None], context)
    assert same_snapshots(before, store.snapshot())
    undisturbed = one_step(model, tiny_store(model, store.plan, chunks), clock)
    expected = render(undisturbed, chunks[:7], model)[-1]
    assert torch.equal(rollout.denoise(chunks[6], scene).video, expected.video)


def test_a_clean_pass_that_breaks_in_its_second_branch_commits_neither(film, monkeypatch):
    model, _, chunks, store, rollout = film
    whole = render(rollout, chunks[:6], model)
    before, scene = store.snapshot(), prompts(model, TEXTS[0])
    calls = iter([rollout.denoiser, lambda *_: 1 / 0])

    def second_call_breaks(*arguments):
        return next(calls)(*arguments)

    monkeypatch.setattr(rollout, "denoiser", second_call_breaks)
    with pytest.raises(ZeroDivisionError):
        rollout.clean_pass(replace(whole[-1], span=chunks[6]), scene)
    assert same_snapshots(before, store.snapshot())


def test_the_denoiser_knows_the_step_and_branch_of_every_pass_and_which_passes_are_clean(film, monkeypatch):
    model, clock, chunks, store, _ = film
    rollout = tiny_rollout(model, store, clock)
    runs, denoiser = [], rollout.denoiser

    def recorded(streams, text, context, run):
        runs.append(run)
        return denoiser(streams, text, context, run)

    monkeypatch.setattr(rollout, "denoiser", recorded)
    rollout.denoise(chunks[0], prompts(model, TEXTS[0]))
    assert runs == [Pass(step, branch) for step in (0, 1, None) for branch in ("guided", "unguided")]


def test_a_resumed_run_equals_the_undisturbed_one_bit_for_bit(film):
    model, clock, chunks, store, rollout = film
    whole = render(rollout, chunks, model)
    for stop in range(1, len(chunks)):
        resumed = one_step(model, tiny_store(model, store.plan, chunks), clock)
        resumed.resume(whole[:stop], chunks[stop], prompts(model, TEXTS[chunks[stop].scene]))
        for expected, got in zip(whole[stop:], render(resumed, chunks[stop:], model), strict=True):
            assert torch.equal(expected.video, got.video)
            assert torch.equal(expected.audio, got.audio)


def test_a_restored_snapshot_and_a_fork_continue_bit_for_bit(film):
    model, clock, chunks, store, rollout = film
    whole = render(rollout, chunks[:4], model)
    assert store.chunks("guided") == [0, 2, 3], "the sink has moved"
    snapshot, fork = store.snapshot(), copy(store)
    fork._branches = deepcopy(store._branches)
    expected = render(rollout, chunks[4:], model)
    used = tiny_store(model, store.plan, chunks)
    render(one_step(model, used, clock, seed=99), chunks[:5], model)
    fresh = tiny_store(model, store.plan, chunks)
    for other in (used, fresh):
        other.restore(snapshot)
    for other in (used, fresh, fork):
        continued = one_step(model, other, clock)
        for latents in whole:
            continued._remember(latents)
        for one, two in zip(expected, render(continued, chunks[4:], model), strict=True):
            assert torch.equal(one.video, two.video)
            assert torch.equal(one.audio, two.audio)


def test_the_store_never_grows_and_its_bytes_are_predicted(film):
    model, _, chunks, store, rollout = film
    sites = model.denoiser.sites(LATENT_SIZE, LATENT_SIZE, 4, 20)
    assert store.bytes == store_bytes(sites, store.plan, branches=("guided", "unguided"), item_bytes=4)
    sizes, places = set(), set()
    for chunk in chunks:
        rollout.denoise(chunk, prompts(model, TEXTS[chunk.scene]))
        sizes.add(store.bytes)
        places.add(tuple(b.keys.data_ptr() for b in store._branches["guided"].buffers.values()))
        assert len(rollout._finished) <= store.plan.window + store.plan.sink + 1
    assert len(sizes) == len(places) == 1


def test_a_cut_forgets_everything(film):
    model, clock, chunks, store, rollout = film
    whole = render(rollout, chunks, model)
    after_cut = [chunk for chunk in chunks if chunk.section > 0]
    alone = one_step(model, tiny_store(model, store.plan, chunks), clock)
    for expected, got in zip(whole[-len(after_cut) :], render(alone, after_cut, model), strict=True):
        assert torch.equal(expected.video, got.video)


def test_a_prompt_switch_replays_the_window_under_the_new_prompt(film):
    model, _, chunks, store, rollout = film
    switch = next(chunk for chunk in chunks if chunk.scene == 1)
    whole = render(rollout, chunks[: switch.index], model)
    rollout.rebuild(switch, prompts(model, TEXTS[1]))
    built = tiny_store(model, store.plan, chunks)
    builder = one_step(model, built, rollout.clock)
    for index in store.plan.visible(0, switch.index):
        builder.clean_pass(whole[index], prompts(model, TEXTS[1]))
    assert same_snapshots(store.snapshot(), built.snapshot())
    stale = tiny_store(model, store.plan, chunks)
    builder = one_step(model, stale, rollout.clock)
    for index in store.plan.visible(0, switch.index):
        builder.clean_pass(whole[index], prompts(model, TEXTS[0]))
    assert not same_snapshots(store.snapshot(), stale.snapshot())


@torch.inference_mode()
def test_a_chunk_that_does_not_fit_its_page_is_refused(film):
    model, clock, chunks, store, _ = film
    small = tiny_store(model, store.plan, chunks, chunk_latents=2)
    latents = random_latents(chunks[0], torch.float32)
    with pytest.raises(CapacityError, match="chunk 0 has 16 video tokens, a page holds 8"):
        predict(
            model.denoiser,
            stream(clock, [latents], [0.0]),
            prompts(model, "")["guided"].tokens[None],
            small.open(chunks[0], "guided"),
        )
