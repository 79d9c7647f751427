"""Image-to-video weights continue given latents through the streams that they were trained with."""

from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch

from longtake.jobs.dry_run import expected_seconds
from longtake.pipeline.adapters.wan.image import WanImage
from longtake.pipeline.adapters.wan.image_to_video import NOISE
from longtake.pipeline.adapters.wan.model import open_folder
from longtake.pipeline.attention.kv_store import KVStore
from longtake.pipeline.errors import SpecError, WeightsError
from longtake.pipeline.media.picture import write_png
from longtake.pipeline.models.blocks import predict
from longtake.pipeline.models.protocols import Stream
from longtake.pipeline.plan import plan_film
from longtake.pipeline.rollouts import Continuation
from longtake.pipeline.sampling.noise import KeyedNoise
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.testing.diffusers_folder import save
from longtake.pipeline.testing.wan import one_chunk, tiny_pipeline
from longtake.pipeline.weights.options import LoadOptions
from tests.inspect.shapes_film import write_mp4

LATENTS, SHAPE, SIGMA = 5, (4, 4, 6), 0.6
CHUNK, CLOCK = one_chunk(LATENTS)
TIMES = torch.tensor(CLOCK.video_times(CHUNK), dtype=torch.float64)
STORYBOARD = """
model: tiny-wan
video: {width: 48, height: 32}
scenes:
  - {prompt: a red circle, duration: 1s}
  - {prompt: a blue circle, duration: 1s}
  - {prompt: a red circle, duration: 1s, transition: cut}
"""


@pytest.fixture(scope="module", params=["i2v 2.1", "i2v a14b"])
def model(request, tmp_path_factory):
    return open_folder(save(tiny_pipeline(request.param), tmp_path_factory.mktemp("wan") / "i2v"), LoadOptions())


def a_pass(model, streams) -> torch.Tensor:
    store = KVStore(model.denoiser.sites(*SHAPE[1:], LATENTS, 0), model.kv_plan, model.denoiser.rope)
    with torch.inference_mode(), store.open(CHUNK, "guided") as context:
        return predict(model.denoiser, streams, model.text.embed("a red circle").unsqueeze(0), context)["video"]


def given_first(count: int) -> dict[str, Stream]:
    """Noisy latents after `count` clean ones, as the pipeline passes them."""
    x = KeyedNoise(4).draw("video", range(LATENTS), SHAPE).unsqueeze(0)
    sigma = torch.full((1, LATENTS), SIGMA)
    sigma[:, :count] = 0.0
    return {"video": Stream(x, sigma, TIMES)}


def test_image_to_video_weights_get_a_clean_overlap(model):
    assert model.rollout == Continuation(overlap=5, clean=True)


@pytest.mark.parametrize("count", [1, 2])
def test_given_latents_become_mask_frames_and_clip_tokens_and_are_noised_themselves(model, count):
    streams = given_first(count)
    x = streams["video"].latents
    with torch.inference_mode():
        frames, _ = model.video_codec.decode(x[:, :count], None, True)
        extra = model.image.condition(frames[0], LATENTS)
    noised = (1 - SIGMA) * x[:, :count] + SIGMA * NOISE.draw("given", range(count), SHAPE)
    spelled_out = {
        name: Stream(values.unsqueeze(0), torch.zeros(1, len(values)), torch.zeros(len(values)))
        for name, values in extra.items()
    }
    shown = torch.cat([noised, x[:, count:]], dim=1)
    spelled_out["video"] = Stream(shown, torch.full((1, LATENTS), SIGMA), TIMES)
    got = a_pass(model, streams)
    assert (got - a_pass(model, spelled_out)).abs().max() <= 1e-5
    assert (got - a_pass(model, given_first(3 - count))).abs().max() > 0.01


def test_given_latents_are_encoded_once_for_all_steps_of_a_chunk(model):
    with mock.patch.object(WanImage, "after", autospec=True, side_effect=WanImage.after) as after:
        for count in (4, 3):
            given = given_first(count)["video"].latents[0, :count]  # the same tensor for all passes over a chunk
            for _ in range(2):
                a_pass(model, {"video": replace(given_first(count)["video"], given=given)})
    assert after.call_count == 2


@pytest.mark.parametrize(("places", "message"), [((), r"those at \[\]"), ((0, 3), r"those at \[0, 3\]")])
def test_a_pass_must_begin_with_given_latents(model, places, message):
    streams = given_first(0)
    streams["video"].sigma[:, list(places)] = 0.0
    with pytest.raises(SpecError, match=message):
        a_pass(model, streams)


def test_a_film_with_a_section_without_a_picture_is_refused_by_the_plan(model):
    with pytest.raises(SpecError) as caught:
        plan_film(parse_storyboard(STORYBOARD), model)
    assert str(caught.value).split("\n") == [
        f"scenes[{index}].image is missing; i2v only continues pictures, add one, or {other}"
        for index, other in ((0, "continue_from to the film"), (2, "transition: continue"))
    ]


@pytest.mark.parametrize("begins", ["scenes[0].image=still.png", "continue_from=before.mp4"])
@pytest.mark.parametrize("later", ["scenes[2].image=still.png", "scenes[2].transition=continue"])
def test_a_film_whose_sections_begin_with_a_picture_is_planned(model, begins, later):
    assert plan_film(parse_storyboard(STORYBOARD, [begins, later]), model).num_frames == 48


@pytest.mark.parametrize("key", ["scenes[0].image", "continue_from"])
def test_a_dry_run_times_a_pass_with_given_latents(model, tmp_path, key):
    frames = np.zeros((32, 32, 48, 3), np.uint8)
    write_png(torch.from_numpy(frames[0]), tmp_path / "still.png")
    write_mp4(tmp_path / "before.mp4", frames)
    file = tmp_path / ("before.mp4" if key == "continue_from" else "still.png")
    plan = plan_film(parse_storyboard(STORYBOARD, [f"{key}={file}", "scenes[2].transition=continue"]), model)
    assert expected_seconds(plan, model) > 0


def test_image_to_video_weights_marked_as_causal_are_refused(tmp_path):
    folder = save(tiny_pipeline("i2v a14b"), tmp_path / "i2v", chunk_latents=3, window=2)
    with pytest.raises(
        WeightsError, match=r"i2v continues an image, .*bidirectional weights; remove longtake\.json from it"
    ):
        open_folder(folder, LoadOptions())
