"""Segments: a chunk sees the clean latents before it, in one pass, and nothing else."""

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from rich.console import Console

from longtake.jobs.dry_run import print_plan
from longtake.pipeline import film
from longtake.pipeline.attention.context import ChunkCausalContext, ChunkLengths
from longtake.pipeline.attention.kv_plan import NOTHING_KEPT, KVPlan, store_bytes
from longtake.pipeline.errors import SpecError
from longtake.pipeline.journal.store import Store
from longtake.pipeline.models.blocks import predict
from longtake.pipeline.models.protocols import Stream
from longtake.pipeline.parallel.degrees import Degrees
from longtake.pipeline.parallel.gang import ONE_RANK
from longtake.pipeline.parallel.sharded_denoiser import ShardedDenoiser
from longtake.pipeline.plan import kv_bytes, plan_film
from longtake.pipeline.provenance import numerics
from longtake.pipeline.rollouts import Continuation, holding, widened
from longtake.pipeline.sampling.continuation import ContinuationEngine
from longtake.pipeline.sampling.engine import Sampling
from longtake.pipeline.sampling.guidance import ClassifierFree
from longtake.pipeline.sampling.noise import KeyedNoise
from longtake.pipeline.sampling.schedule import noise_levels
from longtake.pipeline.sampling.solver import Euler
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.stages.denoise import DenoiseStage
from longtake.pipeline.stages.embed import EmbedStage
from longtake.pipeline.take import open_take
from longtake.pipeline.testing.thread_ranks import run_threads
from tests.tiny import LATENT_SIZE, SHAPES, prompts, tiny_chunks, tiny_model, tiny_store
from tests.tiny_take import KilledError, Recorder, legs

TEXTS = ("a red circle bounces fast", "a blue square rests", "a green triangle glides on a dark background")
NTSC = Fraction(24000, 1001)


class Spy:
    """A denoiser that records its inputs."""

    def __init__(self, denoiser):
        self.denoiser, self.shown = denoiser, []

    def __call__(self, streams, text, context, run):
        self.shown.append(streams)
        return self.denoiser(streams, text, context, run)


def segment_store(model, clock, chunks, overlap):
    passes = [widened(clock, chunks[c.section : c.index], c, overlap) for c in chunks]
    return tiny_store(model, NOTHING_KEPT, passes, chunk_latents=4 + overlap)


def rollout_of(model, chunks, clock, segment, steps=2, denoiser=None):
    store = segment_store(model, clock, chunks, segment.overlap)
    sampling = Sampling(noise_levels(steps, 2.5, audio_lag=0.5), Euler(), ClassifierFree(2.0), KeyedNoise(5))
    return ContinuationEngine(
        segment, denoiser or ShardedDenoiser(model.denoiser, ONE_RANK), store, clock, sampling, SHAPES
    )


def film_of(model, fps=Fraction(16)):
    clock = model.clock(fps)
    return clock, tiny_chunks(clock, [3.4, 2.25, 2], [True, False, True])


def render(rollout, chunks, model):
    return [rollout.denoise(chunk, prompts(model, TEXTS[chunk.scene])) for chunk in chunks]


def same(one, other):
    return torch.equal(one.video, other.video) and torch.equal(one.audio, other.audio)


@pytest.mark.parametrize("fps", [Fraction(16), NTSC], ids=["16", "24000/1001"])
@pytest.mark.parametrize("overlap", [0, 1, 3, 6])
@torch.inference_mode()
def test_a_chunk_equals_one_uncached_forward_over_overlap_and_chunk(overlap, fps):
    model = tiny_model()
    clock, chunks = film_of(model, fps)
    rollout = rollout_of(model, chunks, clock, Continuation(overlap), steps=1)
    noise, patches = KeyedNoise(5), (LATENT_SIZE // 2) ** 2
    before = []
    for chunk in chunks:
        before = [latents for latents in before if latents.span.section == chunk.section]
        span = widened(clock, [latents.span for latents in before], chunk, overlap)
        first = {"video": chunk.latents.start - span.latents.start,
                 "audio": chunk.audio_latents.start - span.audio_latents.start}  # fmt: skip
        streams = {}
        for name, own, times in (
            ("video", chunk.latents, clock.video_times),
            ("audio", chunk.audio_latents, clock.audio_times),
        ):
            clean = [getattr(latents, name) for latents in before]
            clean = torch.cat(clean)[-first[name] :] if first[name] else torch.zeros(0, *SHAPES[name]).double()
            x = torch.cat((clean, noise.draw(name, own, SHAPES[name]).double())).unsqueeze(0)
            sigma = torch.tensor([[0.0] * first[name] + [1.0] * len(own)]).double()
            seconds = [t for piece in (*(latents.span for latents in before), chunk) for t in times(piece)]
            streams[name] = Stream(x, sigma, torch.tensor(seconds[-x.shape[1] :], dtype=torch.float64))
        lengths = {"video": streams["video"].latents.shape[1] * patches, "audio": streams["audio"].latents.shape[1]}
        scene, velocity = prompts(model, TEXTS[chunk.scene]), {}
        for branch, prompt in scene.items():
            context = ChunkCausalContext(
                [ChunkLengths(lengths, span.start_s, span.stop_s)], KVPlan(1), model.denoiser.rope
            )
            velocity[branch] = predict(model.denoiser, streams, prompt.tokens.unsqueeze(0), context)
        got = rollout.denoise(chunk, scene)
        for name in SHAPES:
            guided, unguided = velocity["guided"][name], velocity["unguided"][name]
            expected = streams[name].latents - (unguided + 2.0 * (guided - unguided))
            torch.testing.assert_close(getattr(got, name), expected[0, first[name] :], rtol=0, atol=1e-10)
        before.append(got)


def test_the_overlap_is_right_before_the_chunk_in_both_streams_and_stays_in_the_section():
    model = tiny_model()
    for fps in (Fraction(16), NTSC):
        clock, chunks = film_of(model, fps)
        for chunk in chunks:
            before = holding(chunks[chunk.section : chunk.index], 6)
            span = widened(clock, before, chunk, 6)
            known = chunks[chunk.section : chunk.index]
            assert len(span.latents) - len(chunk.latents) == min(6, sum(len(c.latents) for c in known))
            assert span.latents.start >= chunks[chunk.section].latents.start
            assert span.audio_latents.start >= chunks[chunk.section].audio_latents.start
            assert span.start_s == span.frames.start / clock.fps
            late = span.start_s * 16_000 / 800 - span.audio_latents.start
            assert 0 <= late < 1, "the sound of the overlap begins with its picture, to a latent"


def test_the_overlap_of_a_special_first_latent_has_its_true_times():
    clock = replace(tiny_model().clock(Fraction(16)), first_latent_frames=1)
    chunks = tiny_chunks(clock, [3], [True])
    assert widened(clock, chunks[:1], chunks[1], 4).frames.start == 0
    assert widened(clock, chunks[:1], chunks[1], 3).frames.start == 1


@torch.inference_mode()
def test_the_overlap_enters_a_pass_clean_with_a_level_of_zero():
    model = tiny_model()
    clock, chunks = film_of(model)
    spy = Spy(ShardedDenoiser(model.denoiser, ONE_RANK))
    rollout = rollout_of(model, chunks, clock, Continuation(3), denoiser=spy)
    first = rollout.denoise(chunks[0], prompts(model, TEXTS[0]))
    spy.shown.clear()
    rollout.denoise(chunks[1], prompts(model, TEXTS[0]))
    for streams in spy.shown:
        for name, count in (("video", 3), ("audio", 15)):
            assert torch.equal(streams[name].latents[0, :count], getattr(first, name)[-count:])
            assert not streams[name].sigma[:, :count].any()
            assert streams[name].sigma[:, count:].unique().numel() == 1


@torch.inference_mode()
def test_weights_with_one_level_for_all_see_the_overlap_at_the_level_of_the_step_from_keyed_noise():
    model = tiny_model()
    clock, chunks = film_of(model)
    spy = Spy(ShardedDenoiser(model.denoiser, ONE_RANK))
    rollout = rollout_of(model, chunks, clock, Continuation(3, clean=False), denoiser=spy)
    first = rollout.denoise(chunks[0], prompts(model, TEXTS[0]))
    spy.shown.clear()
    rollout.denoise(chunks[1], prompts(model, TEXTS[0]))
    for streams in spy.shown:
        for name, count, own in (("video", 3, chunks[0].latents), ("audio", 15, chunks[0].audio_latents)):
            sigma = float(streams[name].sigma.unique())
            noise = KeyedNoise(5).draw(name, own[-count:], SHAPES[name]).double()
            expected = (1 - sigma) * getattr(first, name)[-count:] + sigma * noise
            torch.testing.assert_close(streams[name].latents[0, :count], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("overlap", [0, 3, 6])
def test_a_resumed_run_equals_the_undisturbed_one_bit_for_bit(overlap):
    model = tiny_model(torch.float32)
    clock, chunks = film_of(model)
    whole = render(rollout_of(model, chunks, clock, Continuation(overlap), steps=1), chunks, model)
    for stop in range(1, len(chunks)):
        resumed = rollout_of(model, chunks, clock, Continuation(overlap), steps=1)
        needed = holding(chunks[chunks[stop].section : stop], overlap)
        resumed.resume([whole[span.index] for span in needed], chunks[stop], {})
        assert all(map(same, render(resumed, chunks[stop:], model), whole[stop:]))


def test_nothing_is_committed_and_memory_stays_flat():
    model = tiny_model(torch.float32)
    clock, chunks = film_of(model)
    rollout = rollout_of(model, chunks, clock, Continuation(6))
    sites = model.denoiser.sites(LATENT_SIZE, LATENT_SIZE, 10, 50)
    for chunk in chunks:
        rollout.store.reset()
        rollout.denoise(chunk, prompts(model, TEXTS[0]))
        assert not rollout.store.chunks("guided")
        assert rollout.store.bytes == store_bytes(sites, NOTHING_KEPT, branches=("guided", "unguided"), item_bytes=4)
        assert len(rollout._finished) <= 3


def test_all_layers_and_branches_take_turns_in_one_room():
    sites = tiny_model(torch.float32).denoiser.sites(LATENT_SIZE, LATENT_SIZE, 10, 50)
    assert all(site.num_layers > 1 for site in sites)
    alone = store_bytes([replace(site, num_layers=1) for site in sites], KVPlan(0), branches=("guided",), item_bytes=4)
    assert store_bytes(sites, NOTHING_KEPT, branches=("guided", "unguided"), item_bytes=4) == alone


def test_continue_goes_on_from_the_overlap_under_the_new_prompt_and_a_cut_starts_afresh():
    model = tiny_model(torch.float32)
    clock, chunks = film_of(model)
    whole = render(rollout_of(model, chunks, clock, Continuation(3)), chunks, model)
    for scene, goes_on in ((1, True), (2, False)):
        first = next(chunk for chunk in chunks if chunk.scene == scene)
        alone = rollout_of(model, chunks, clock, Continuation(3)).denoise(first, prompts(model, TEXTS[scene]))
        assert same(alone, whole[first.index]) is not goes_on


# ------------------------------------------------------------------ the whole pipeline

STORYBOARD = """
model: tiny
seed: 11
sampling: {steps: 2}
scenes:
  - {prompt: a red circle bounces fast, duration: 2.6s}
  - {prompt: a blue square rests, duration: 1.5s}
  - {prompt: a green triangle glides, duration: 37f, transition: cut}
"""


def segmented(overlap=3, dtype=torch.float32):
    model = tiny_model(dtype)
    model.rollout = Continuation(overlap)
    return model


def latents_of(take):
    return [take.journal.latents(chunk) for chunk in take.plan.chunks]


def take_of(model, store):
    return open_take(plan_film(parse_storyboard(STORYBOARD), model), model, store, numerics(model))


@pytest.fixture(scope="module")
def by_one_rank():
    """A model, its plan, the prompts of the film's chunks, and their latents."""
    model = segmented(dtype=torch.float64)
    plan = plan_film(parse_storyboard(STORYBOARD), model)
    embed, alone = EmbedStage(model.text, plan), DenoiseStage(model, plan, lambda _: None)
    return model, plan, embed, [alone(chunk, embed(chunk)) for chunk in plan.chunks]


@pytest.mark.parametrize("degrees", [Degrees(ulysses=2), Degrees(ring=2), Degrees(cfg=2)], ids=["u2", "r2", "cfg2"])
def test_two_ranks_render_what_one_renders(by_one_rank, degrees):
    model, plan, embed, whole = by_one_rank

    def act(parallel):
        stage = DenoiseStage(model, plan, lambda _: None, parallel)
        assert isinstance(stage.engine, ContinuationEngine)
        assert isinstance(stage.engine.denoiser, ShardedDenoiser)
        return [stage(chunk, embed(chunk)) for chunk in plan.chunks]

    for rank in run_threads(act, degrees):
        for got, expected in zip(rank, whole, strict=True):
            torch.testing.assert_close(got.video, expected.video, rtol=0, atol=1e-12)
            torch.testing.assert_close(got.audio, expected.audio, rtol=0, atol=1e-12)


def test_a_film_of_segments_killed_anywhere_goes_on_bit_for_bit(tmp_path):
    model = segmented()
    undisturbed = take_of(model, Store(str(tmp_path / "whole")))
    film.render(undisturbed)
    store = Store(str(tmp_path / "killed"))
    kills = [("denoise.chunk", chunk) for chunk in (0, 2, 4)]
    assert len(list(legs(lambda observer: film.render(take_of(model, store), observer), kills))) == 4
    assert all(map(same, latents_of(take_of(model, store)), latents_of(undisturbed)))
    assert store.get("film.mp4") == undisturbed.store.get("film.mp4")


def test_damaged_latents_are_rendered_again_if_an_overlap_needs_them(tmp_path):
    model, store = segmented(), Store(str(tmp_path))
    with pytest.raises(KilledError):
        film.render(take_of(model, store), Recorder(fatal=("denoise.chunk", 1)))
    before = take_of(model, store).journal.latents(take_of(model, store).plan.chunks[1])
    store.delete("journal/latents/00001.json")
    film.render(take_of(model, store))
    take = take_of(model, store)
    assert same(take.journal.latents(take.plan.chunks[1]), before)


def test_another_overlap_or_way_to_show_it_gives_other_keys(tmp_path):
    keys = set()
    for rollout in (tiny_model().rollout, Continuation(2), Continuation(3), Continuation(3, clean=False)):
        model = tiny_model(torch.float32)
        model.rollout = rollout
        keys.add(take_of(model, Store(str(tmp_path))).journal._keys.latents[0].key)
    assert len(keys) == 4


def test_a_dry_run_tells_passes_tokens_and_memory_of_segments():
    model = segmented()
    plan = plan_film(parse_storyboard(STORYBOARD), model)
    console = Console(record=True, width=160)
    print_plan(plan, model, Degrees(), console)
    printed = console.export_text()
    longest = max(plan.chunks, key=plan.tokens)
    assert plan.tokens(longest) == 7 * 16 + 35 + 16
    assert f"{plan.tokens(longest)} a pass, 3 video latents of overlap among them" in printed
    assert "4 a chunk: 2 steps, for guided and unguided" in printed
    stage = DenoiseStage(model, plan, lambda _: None)
    assert stage.engine.store.bytes == kv_bytes(plan, model)
    assert f"{kv_bytes(plan, model) / 2**20:.1f} MiB" in printed


def test_an_overlap_below_nothing_is_refused():
    with pytest.raises(SpecError, match="overlap is -1; use 0 or more"):
        Continuation(-1)
