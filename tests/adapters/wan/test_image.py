"""The conditioning of image-to-video weights, and their clips, equal those of diffusers' pipeline."""

from itertools import pairwise

import pytest
import torch
from PIL import Image

from longtake.pipeline.adapters.wan.model import open_folder
from longtake.pipeline.attention.kv_store import KVStore
from longtake.pipeline.models.blocks import predict
from longtake.pipeline.models.protocols import Stream
from longtake.pipeline.sampling.noise import KeyedNoise
from longtake.pipeline.testing.diffusers_folder import save
from longtake.pipeline.testing.wan import one_chunk, tiny_pipeline
from longtake.pipeline.weights.options import LoadOptions

KINDS, SIZE, LATENTS, STEPS, SCALE, LOW_SCALE = ("i2v 2.1", "i2v a14b"), (48, 32), 4, 3, 2.5, 3.5
PROMPT, FRAMES = "a red circle", 1 + 4 * (LATENTS - 1)


@pytest.fixture(scope="module", params=KINDS)
def clip(request, tmp_path_factory):
    """diffusers' pipeline, longtake's model of the same folder, a picture, and the picture as a frame [1 3 H W]."""
    pipeline = tiny_pipeline(request.param)
    model = open_folder(save(pipeline, tmp_path_factory.mktemp("wan") / "i2v"), LoadOptions())
    generator = torch.Generator().manual_seed(5)
    pixels = torch.randint(0, 256, (SIZE[1], SIZE[0], 3), generator=generator, dtype=torch.uint8)
    return pipeline, model, Image.fromarray(pixels.numpy()), pixels.permute(2, 0, 1).unsqueeze(0) / 127.5 - 1


@torch.inference_mode()
def test_the_extra_channels_equal_diffusers_condition(clip):
    pipeline, model, picture, frame = clip
    image = pipeline.video_processor.preprocess(picture, height=SIZE[1], width=SIZE[0])
    kind = {"dtype": torch.float32, "device": torch.device("cpu")}
    _, expected = pipeline.prepare_latents(image, 1, 4, SIZE[1], SIZE[0], FRAMES, **kind)
    got = model.image.condition(frame, LATENTS)["condition"]
    assert got.shape == (LATENTS, 8, 4, 6)
    assert (got - expected[0].transpose(0, 1)).abs().max() <= 1e-5


@torch.inference_mode()
def test_several_frames_may_be_continued(clip):
    _, model, _, frame = clip
    condition = model.image.condition(frame.expand(5, -1, -1, -1), LATENTS)["condition"]
    assert condition[:, :4, 0, 0].tolist() == [[1] * 4, [1] * 4, [0] * 4, [0] * 4]
    assert torch.equal(condition[:2, 4:], model.video_codec.encode(frame.expand(5, -1, -1, -1)[None])[0])


@torch.inference_mode()
def test_clip_tokens_equal_those_of_diffusers(clip):
    pipeline, model, picture, frame = clip
    streams = model.image.condition(frame, LATENTS)
    if pipeline.image_encoder is None:
        assert streams.keys() == {"condition"}
        return
    expected = pipeline.encode_image(picture)[0]
    assert streams["image"].shape == expected.shape == (5, 8)
    assert (streams["image"] - expected).abs().max() <= 1e-5


def test_weights_that_render_from_text_read_no_image(tmp_path):
    assert open_folder(save(tiny_pipeline("2.1"), tmp_path / "t2v"), LoadOptions()).image is None


def euler(model, x, levels, extra=None, given=None, boundary=0.0, low_scale=SCALE):
    """Denoise latents [1 f c h w] with longtake's denoiser and diffusers' steps and guidance.

    Args:
        extra: streams in addition to the video's.
        given: the clean first latent [c h w]; None to render it.
    """
    chunk, clock = one_chunk(LATENTS, fps=int(model.limits.max_fps))
    store = KVStore(model.denoiser.sites(*x.shape[-2:], LATENTS, 0), model.kv_plan, model.denoiser.rope)
    times = torch.tensor(clock.video_times(chunk), dtype=torch.float64)
    streams = {
        name: Stream(values[None], torch.zeros(1, len(values)), torch.zeros(len(values)))
        for name, values in (extra or {}).items()
    }
    texts = [model.text.embed(text).unsqueeze(0) for text in (PROMPT, "")]
    for sigma, lower in pairwise(levels):
        sigmas = torch.full((1, LATENTS), sigma)
        if given is not None:
            x, sigmas = torch.cat([given[None, None], x[:, 1:]], dim=1), sigmas.index_fill(1, torch.tensor(0), 0.0)
        streams["video"] = Stream(x, sigmas, times)
        with store.open(chunk, "guided") as context:
            guided, unguided = (predict(model.denoiser, streams, text, context)["video"] for text in texts)
        x = x + (lower - sigma) * (unguided + (low_scale if sigma < boundary else SCALE) * (guided - unguided))
    return x


@torch.inference_mode()
def test_a_clip_from_an_image_equals_that_of_diffusers(clip):
    pipeline, model, picture, frame = clip
    x = KeyedNoise(9).draw("video", range(LATENTS), model.latent_shapes(*SIZE)["video"]).unsqueeze(0)
    asked = {"prompt": PROMPT, "width": SIZE[0], "height": SIZE[1], "num_frames": FRAMES, "guidance_scale": SCALE}
    asked |= {"num_inference_steps": STEPS, "guidance_scale_2": LOW_SCALE if model.defaults.boundary else None}
    expected = pipeline(picture, **asked, latents=x.transpose(1, 2), output_type="latent", return_dict=False)[0]
    boundary, low_scale = model.defaults.boundary or 0.0, model.defaults.guidance_2 or SCALE
    extra = model.image.condition(frame, LATENTS)
    got = euler(model, x, pipeline.scheduler.sigmas.tolist(), extra, boundary=boundary, low_scale=low_scale)
    assert (got - expected.transpose(1, 2)).abs().max() <= 1e-5


@torch.inference_mode()
def test_the_5b_continues_an_image_given_as_its_first_latent(tmp_path):
    pipeline, size = tiny_pipeline("i2v 5b"), (96, 64)
    model = open_folder(save(pipeline, tmp_path / "5b"), LoadOptions())
    assert model.image is None
    pixels = torch.randint(0, 256, (64, 96, 3), generator=torch.Generator().manual_seed(5), dtype=torch.uint8)
    x = KeyedNoise(9).draw("video", range(LATENTS), model.latent_shapes(*size)["video"]).unsqueeze(0)
    asked = {"prompt": PROMPT, "width": 96, "height": 64, "num_frames": FRAMES, "guidance_scale": SCALE}
    asked |= {"num_inference_steps": STEPS, "latents": x.transpose(1, 2), "output_type": "latent"}
    expected = pipeline(Image.fromarray(pixels.numpy()), **asked, return_dict=False)[0].transpose(1, 2)
    frame = pixels.permute(2, 0, 1)[None, None] / 127.5 - 1
    given = model.video_codec.encode(frame)[0, 0]
    got = euler(model, x, pipeline.scheduler.sigmas.tolist(), given=given)
    assert (got[:, 1:] - expected[:, 1:]).abs().max() <= 1e-5
    assert (given - expected[0, 0]).abs().max() <= 1e-5
