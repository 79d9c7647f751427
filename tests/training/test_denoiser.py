from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from longtake.pipeline.attention.context import ChunkCausalContext
from longtake.pipeline.attention.kv_plan import KVPlan
from longtake.pipeline.models.blocks import predict
from longtake.pipeline.models.embedded import TINY, EmbeddedModel
from longtake.pipeline.models.protocols import Stream
from longtake.pipeline.training.context import TeacherForcedContext
from longtake.pipeline.training.data import World
from longtake.pipeline.training.denoiser import ClipGrid, DenoiserOptions, DenoiserTask, draw_levels
from longtake.pipeline.training.spec import TrainSpec

SPEC = {"stage": "denoiser", "steps": 10, "batch_size": 2, "lr": 1e-3, "model": "tiny"}


def task(**options) -> DenoiserTask:
    spec = TrainSpec(**SPEC, options={"chunks": 3, "copies": 2, **options})
    return DenoiserTask(spec, EmbeddedModel.untrained(TINY, seed=1), World())


@pytest.mark.parametrize("plan", [KVPlan(window=3), KVPlan(window=1), KVPlan(window=1, sink=1)])
def test_each_noisy_chunk_sees_itself_and_the_clean_chunks_before_it(plan):
    model = EmbeddedModel.untrained(TINY, seed=1).double()
    grid = ClipGrid.of(model, Fraction(16), chunks=3)
    chunks = grid.lengths({"video": 16, "audio": 1})
    torch.manual_seed(0)
    shapes = {"video": (12, 4, 8, 8), "audio": (60, 6)}
    clean, noisy = ({name: torch.randn(1, *shape).double() for name, shape in shapes.items()} for _ in range(2))
    text = model.text(model.text.tokenize("a red circle rests").unsqueeze(0))

    def velocities(latents, context):
        rows, frames = latents["video"].shape[:2]
        seen = ClipGrid.of(model, Fraction(16), chunks=frames // 4)
        streams = {
            name: Stream(z, torch.full(z.shape[:2], 0.3, dtype=torch.float64), seen.times_s(name))
            for name, z in latents.items()
        }
        return predict(model.denoiser, streams, text.expand(rows, -1, -1), context)

    both = {name: torch.cat((clean[name], noisy[name])) for name in shapes}
    forced = velocities(both, TeacherForcedContext(chunks, plan, model.denoiser.rope, num_clean=1))
    for index in range(3):
        past, own = ({"video": 4 * number, "audio": 20 * number} for number in (index, index + 1))
        mixed = {
            name: torch.cat((z[:, : past[name]], noisy[name][:, past[name] : own[name]]), dim=1)
            for name, z in clean.items()
        }
        expected = velocities(mixed, ChunkCausalContext(chunks[: index + 1], plan, model.denoiser.rope))
        for name in shapes:
            span = slice(past[name], own[name])
            torch.testing.assert_close(forced[name][1:, span], expected[name][:, span], rtol=0, atol=1e-12)


def test_one_worker_and_two_get_the_same_batch_except_for_noise_levels():
    whole, second = task().draw(3, 4, 0, 2), task().draw(3, 4, 1, 1)
    assert torch.equal(whole["frames"][1:], second["frames"])
    torch.testing.assert_close(whole["sound"][1:], second["sound"], rtol=0, atol=1e-6)


def test_levels_follow_the_sampling_path_except_for_the_given_shares():
    on_path = DenoiserOptions(off_path=0, audio_given=0)
    levels = draw_levels(np.random.default_rng(0), (50, 2, 4), 0.5, on_path)
    assert np.all(levels["audio"] >= levels["video"])
    assert 0.25 < np.mean(levels["video"] == 0) < 0.42
    assert 0.25 < np.mean(levels["audio"] == 1) < 0.42
    given = draw_levels(np.random.default_rng(0), (500, 2, 4), 0.5, DenoiserOptions(off_path=0, audio_given=0.2))
    assert abs(np.mean((given["audio"] == 0) & (given["video"] > 0)) - 0.2) < 0.02
    shares = DenoiserOptions(off_path=0.1, audio_given=0.2, video_given=0.3)
    both = draw_levels(np.random.default_rng(0), (500, 2, 4), 0.0, shares)
    for given, other, share in (("audio", "video", 0.2), ("video", "audio", 0.3)):
        assert abs(np.mean((both[given] == 0) & (both[other] > 0)) - share) < 0.02


GIVEN = {"audio_given": 0.3, "video_given": 0.3, "ends_given": 0.5, "some_given": 0.5}


@pytest.mark.parametrize(
    "options",
    [{}, {"apart": 1.0}, {"own_history": 1.0}, {"switch": 1.0, "no_text": 1.0}, GIVEN, {"direction_weight": 0.5}],
)
def test_every_option_gives_finite_losses_and_gradients(options):
    training = task(**options)
    losses = training.objective(training.draw(0, 0, 0, 2))
    losses["loss"].backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    trained = [p for p in training.objective.parameters() if p.requires_grad]
    assert trained
    assert all(torch.isfinite(p.grad).all() for p in trained if p.grad is not None)
    assert not any(p.requires_grad for p in training.objective.model.video_codec.parameters())


def test_chunks_before_a_switch_do_not_count_in_the_loss():
    """The loss does not depend on velocities of chunks under the earlier prompt."""
    training = task(switch=1.0)
    batch = training.draw(0, 0, 0, 2)
    assert (batch["learned"].sum(dim=1) < 3).all()
    assert (batch["learned"][:, -1] == 1).all()


def test_streams_that_run_apart_do_not_affect_each_other():
    training = task(apart=1.0, history_share=0.0)
    batch = training.draw(0, 0, 0, 2)
    losses = []
    for sound in (batch["sound"], torch.zeros_like(batch["sound"])):
        torch.manual_seed(0)
        losses.append(training.objective({**batch, "sound": sound}))
    assert losses[0]["video"] == losses[1]["video"]
    assert losses[0]["audio"] != losses[1]["audio"]


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ({}, {(False, False, False, False)}),
        ({"ends_given": 1.0}, {(True, False, False, True)}),
        ({"ends_given": 0.5}, {(True, False, False, True), (False, False, False, False)}),
        ({"some_given": 1.0}, None),
    ],
)
def test_given_latents_are_clean_and_do_not_count_in_the_loss(options, kinds):
    training = task(history_share=0.0, off_path=0.0, audio_given=0.0, **options)
    batch = training.draw(0, 0, 0, 2)
    found = {tuple(chunk) for chunk in batch["given"].flatten(0, 2).tolist()}
    assert found == kinds if kinds else len(found) > 4
    seen = {}
    training.objective._loss = lambda name, *rest: seen.update({name: rest[2]}) or torch.zeros(())
    training.objective(batch)
    assert ((seen["video"] == 0) >= batch["given"].permute(1, 0, 2, 3).flatten(0, 1).flatten(1)).all()


def test_a_preconditioned_network_adds_to_the_best_linear_guess_of_the_velocity():
    config = replace(TINY, denoiser=replace(TINY.denoiser, preconditioned=True))
    conditioned, plain = (EmbeddedModel.untrained(each, seed=1).double() for each in (config, TINY))
    grid = ClipGrid.of(plain, Fraction(16), chunks=1)
    latents = {"video": torch.randn(3, 4, 4, 8, 8).double(), "audio": torch.randn(3, 20, 6).double()}
    sigma = torch.tensor([[1.0], [0.5], [0.0]]).double()
    streams = {name: Stream(z, sigma.expand(z.shape[:2]), grid.times_s(name)) for name, z in latents.items()}
    text = plain.text(torch.zeros(3, TINY.denoiser.text_tokens, dtype=torch.long))

    def run(model):
        context = ChunkCausalContext(grid.lengths({"video": 16, "audio": 1}), model.kv_plan, model.denoiser.rope)
        return predict(model.denoiser, streams, text, context)

    velocities, residuals = run(conditioned), run(plain)
    for name, z in latents.items():
        noise, _, clean = z
        residual = residuals[name]
        expected = torch.stack((noise - residual[0], -(2**0.5) * residual[1], -clean - residual[2]))
        torch.testing.assert_close(velocities[name], expected)
