"""Given latents stay as they are and enter every pass clean; the others are rendered around them."""

from fractions import Fraction

import pytest
import torch

from longtake.pipeline.attention.context import ChunkCausalContext, ChunkLengths
from longtake.pipeline.attention.kv_plan import KVPlan
from longtake.pipeline.attention.kv_store import KVStore
from longtake.pipeline.errors import ShapeError
from longtake.pipeline.models.blocks import predict
from longtake.pipeline.models.protocols import Stream
from longtake.pipeline.parallel.degrees import Degrees
from longtake.pipeline.parallel.gang import ONE_RANK
from longtake.pipeline.parallel.sharded_denoiser import ShardedDenoiser
from longtake.pipeline.rollouts import Continuation
from longtake.pipeline.sampling.causal import CausalEngine
from longtake.pipeline.sampling.continuation import ContinuationEngine
from longtake.pipeline.sampling.engine import Sampling
from longtake.pipeline.sampling.guidance import ClassifierFree
from longtake.pipeline.sampling.noise import KeyedNoise
from longtake.pipeline.sampling.schedule import noise_levels
from longtake.pipeline.sampling.solver import Euler, Renoise
from longtake.pipeline.testing.thread_ranks import run_threads
from longtake.pipeline.values import Given, GivenLatents
from tests.sampling.test_continuation import Spy, same, segment_store
from tests.tiny import LATENT_SIZE, SHAPES, prompts, random_latents, tiny_chunks, tiny_model, tiny_store

TEXT = "a red circle bounces fast"


def given_of(chunk, places, dtype=torch.float64):
    """Random latents in these places of each stream."""
    values = random_latents(chunk, dtype, seed=9)
    streams = {name: GivenLatents(some, getattr(values, name)[list(some)]) for name, some in places.items()}
    return Given(chunk, streams)


def rollout_of(kind, model, chunks, clock, denoiser=None, solver=None, steps=2):
    store = tiny_store(model, KVPlan(2, 1), chunks) if kind == "causal" else segment_store(model, clock, chunks, 3)
    sampling = Sampling(noise_levels(steps, 2.5, audio_lag=0.5), solver or Euler(), ClassifierFree(2.0), KeyedNoise(5))
    parts = (denoiser or ShardedDenoiser(model.denoiser, ONE_RANK), store, clock, sampling, SHAPES)
    return CausalEngine(*parts) if kind == "causal" else ContinuationEngine(Continuation(3), *parts)


@pytest.fixture
def film():
    model = tiny_model(torch.float32)
    clock = model.clock(Fraction(16))
    return model, clock, tiny_chunks(clock, [4], [True])


PLACES = {
    "image to film": {"video": (0,)},
    "video to audio": {"video": (0, 1, 2, 3)},
    "audio-driven": {"audio": tuple(range(20))},
    "in between": {"video": (0, 3), "audio": (0, 1, 18, 19)},
}


@pytest.mark.parametrize("kind", ["causal", "segment"])
@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("solver", [Euler(), Renoise()], ids=["euler", "renoise"])
def test_given_latents_enter_every_pass_clean_and_come_out_bit_for_bit(film, kind, places, solver):
    model, clock, chunks = film
    spy, scene = Spy(ShardedDenoiser(model.denoiser, ONE_RANK)), prompts(model, TEXT)
    rollout = rollout_of(kind, model, chunks, clock, spy, solver)
    rollout.denoise(chunks[0], scene)
    spy.shown.clear()
    given = given_of(chunks[1], places, torch.float32)
    latents = rollout.denoise(chunks[1], scene, given)
    assert len(spy.shown) == 2 * (2 + (kind == "causal"))
    for name, some in places.items():
        own = len({"video": chunks[1].latents, "audio": chunks[1].audio_latents}[name])
        assert torch.equal(getattr(latents, name)[list(some)], given.streams[name].values)
        for streams in spy.shown:
            first = streams[name].latents.shape[1] - own
            where = [first + place for place in some]
            assert torch.equal(streams[name].latents[0, where], given.streams[name].values)
            assert not streams[name].sigma[:, where].any()


@pytest.mark.parametrize("kind", ["causal", "segment"])
def test_nothing_given_changes_no_bit_and_something_given_changes_the_rest(film, kind):
    model, clock, chunks = film
    scene = prompts(model, TEXT)
    free = rollout_of(kind, model, chunks, clock).denoise(chunks[0], scene)
    assert same(rollout_of(kind, model, chunks, clock).denoise(chunks[0], scene, Given(chunks[0], {})), free)
    steered = rollout_of(kind, model, chunks, clock).denoise(
        chunks[0], scene, given_of(chunks[0], {"video": (0,)}, torch.float32)
    )
    assert not torch.equal(steered.video[1:], free.video[1:])
    assert not torch.equal(steered.audio, free.audio)


@pytest.mark.parametrize("kind", ["causal", "segment"])
def test_a_chunk_given_whole_is_that_chunk_and_later_ones_see_it(film, kind):
    model, clock, chunks = film
    scene, all_of = prompts(model, TEXT), {"video": tuple(range(4)), "audio": tuple(range(20))}
    given, steered = given_of(chunks[0], all_of, torch.float32), rollout_of(kind, model, chunks, clock)
    assert same(steered.denoise(chunks[0], scene, given), random_latents(chunks[0], torch.float32, seed=9))
    resumed = rollout_of(kind, model, chunks, clock)
    resumed.resume([random_latents(chunks[0], torch.float32, seed=9)], chunks[1], scene)
    assert same(steered.denoise(chunks[1], scene), resumed.denoise(chunks[1], scene))


@torch.inference_mode()
def test_a_step_with_given_latents_equals_one_forward_with_their_level_at_zero():
    model = tiny_model()
    clock = model.clock(Fraction(16))
    chunks = tiny_chunks(clock, [1], [True])
    chunk, scene = chunks[0], prompts(model, TEXT)
    given = given_of(chunk, {"video": (0, 2), "audio": (5,)})
    streams = {}
    for name, own, times in (
        ("video", chunk.latents, clock.video_times(chunk)),
        ("audio", chunk.audio_latents, clock.audio_times(chunk)),
    ):
        x, sigma = KeyedNoise(5).draw(name, own, SHAPES[name]).double().unsqueeze(0), torch.ones(1, len(own)).double()
        where = list(given.streams[name].places)
        x[0, where], sigma[0, where] = given.streams[name].values, 0.0
        streams[name] = Stream(x, sigma, torch.tensor(times, dtype=torch.float64))
    lengths = ChunkLengths({"video": 4 * (LATENT_SIZE // 2) ** 2, "audio": 20}, chunk.start_s, chunk.stop_s)
    velocity = {
        branch: predict(
            model.denoiser, streams, prompt.tokens[None], ChunkCausalContext([lengths], KVPlan(1), model.denoiser.rope)
        )
        for branch, prompt in scene.items()
    }
    got = rollout_of("causal", model, chunks, clock, steps=1).denoise(chunk, scene, given)
    for name, stream in streams.items():
        guided, unguided = velocity["guided"][name], velocity["unguided"][name]
        expected = (stream.latents - (unguided + 2.0 * (guided - unguided)))[0]
        expected[list(given.streams[name].places)] = given.streams[name].values
        torch.testing.assert_close(getattr(got, name), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ["causal", "segment"])
def test_two_ranks_render_around_given_latents_what_one_renders(kind):
    model = tiny_model()
    clock = model.clock(Fraction(16))
    chunks, scene = tiny_chunks(clock, [2], [True]), prompts(model, TEXT)

    def film(rollout):
        return [rollout.denoise(chunk, scene, given_of(chunk, PLACES["in between"])) for chunk in chunks]

    alone = film(rollout_of(kind, model, chunks, clock))

    def act(parallel):
        whole = rollout_of(kind, model, chunks, clock)
        sites = model.denoiser.sites(LATENT_SIZE, LATENT_SIZE, 7, 35)
        store = KVStore(
            *(sites, whole.store.plan, model.denoiser.rope),
            branches=("guided", "unguided"), dtype=torch.float64, parallel=parallel,
        )  # fmt: skip
        whole.store, whole.denoiser, whole._passes = store, ShardedDenoiser(model.denoiser, parallel), parallel
        return film(whole)

    for rank in run_threads(act, Degrees(ulysses=2)):
        for got, expected in zip(rank, alone, strict=True):
            torch.testing.assert_close(got.video, expected.video, rtol=0, atol=1e-12)
            torch.testing.assert_close(got.audio, expected.audio, rtol=0, atol=1e-12)


def test_given_latents_that_do_not_fit_are_refused(film):
    _, _, chunks = film
    with pytest.raises(ShapeError, match="2 values for 1 places"):
        GivenLatents((0,), torch.zeros(2, 4, 4, 4))
    with pytest.raises(ShapeError, match=r"names places \(4,\); chunk 0 has 4 video latents"):
        Given(chunks[0], {"video": GivenLatents((4,), torch.zeros(1, 4, 4, 4))})
