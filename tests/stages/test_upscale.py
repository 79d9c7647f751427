import shutil

import pytest
import torch

from longtake.pipeline import film
from longtake.pipeline.errors import SpecError, WeightsError
from longtake.pipeline.journal.store import Store
from longtake.pipeline.media.read import read_film
from longtake.pipeline.models.embedded import TINY, EmbeddedModel
from longtake.pipeline.plan import plan_film
from longtake.pipeline.provenance import numerics
from longtake.pipeline.spec import parse_storyboard
from longtake.pipeline.stages.upscale import UpscaleStage
from longtake.pipeline.take import open_take
from longtake.pipeline.values import FrameChunk
from tests.tiny_take import Recorder, legs

MODEL = EmbeddedModel.untrained(TINY)
SMALL = """
model: tiny
sampling: {steps: 1, guidance: 1}
video: {width: 32, height: 32}
scenes:
  - {prompt: a red circle bounces fast, duration: 3s}
  - {prompt: a green triangle glides, duration: 1.5s, transition: continue}
  - {prompt: a blue square rests, duration: 5s, transition: cut}
output: {quality: 0, hls: false}
"""
LARGE = SMALL.replace("quality: 0", "quality: 0, upscale: 2, upscaler: tiny-upscaler")


def take_in(folder, text=LARGE):
    return open_take(plan_film(parse_storyboard(text), MODEL), MODEL, Store(str(folder)), numerics(MODEL))


def render(folder, text=LARGE, observer=None):
    return film.render(take_in(folder, text), observer or Recorder())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    render(folder)
    return folder


@pytest.fixture(scope="module")
def unscaled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unscaled")
    render(folder, SMALL)
    return folder


def test_a_film_is_shown_so_many_times_as_large(whole, unscaled):
    small, large = (read_film(str(folder / "film.mp4")) for folder in (unscaled, whole))
    frames, height, width, _ = small.frames.shape
    assert large.frames.shape == (frames, 2 * height, 2 * width, 3)
    assert torch.equal(large.pcm, small.pcm)
    reduced = large.frames.reshape(frames, height, 2, width, 2, 3).float().mean(dim=(2, 4))
    likeness = torch.corrcoef(torch.stack([reduced.flatten(), small.frames.flatten().float()]))[0, 1]
    assert likeness > 0.7  # random weights add noise


def test_a_film_killed_three_times_continues_where_its_upscaler_stood(whole, tmp_path):
    kills = (2, 5, 8)
    acted = legs(lambda observer: render(tmp_path, observer=observer), [("encode.chunk", chunk) for chunk in kills])
    for last, leg in zip((-1, *kills), acted, strict=True):
        assert leg.acted("upscale")[0] == last + 1
    assert (tmp_path / "film.mp4").read_bytes() == (whole / "film.mp4").read_bytes()


def test_upscaling_afterwards_denoises_nothing_again(whole, unscaled, tmp_path):
    shutil.copytree(unscaled, tmp_path, dirs_exist_ok=True)
    again = Recorder()
    render(tmp_path, observer=again)
    assert (again.acted("denoise"), len(again.acted("encode"))) == ([], 10)
    assert (tmp_path / "film.mp4").read_bytes() == (whole / "film.mp4").read_bytes()


def test_its_history_ends_at_a_cut_and_reaches_over_a_change_of_prompt(whole):
    take = take_in(whole)
    chunks, history = take.plan.chunks, take.upscaler.grid.history_frames
    assert [span.index for span in take.plan.frame_history(chunks[6], chunks[6].frames.start - history)] == [5]
    before = take.plan.frame_history(chunks[4], chunks[4].frames.start - history)
    assert [span.index for span in before] == [*range(4 - len(before), 4)]
    assert sum(len(span.frames) for span in before[1:]) < history


def test_chunks_in_order_equal_the_upscaler_on_the_whole_section(whole):
    take = take_in(whole)
    span = take.plan.chunks[0]
    frames = torch.randint(0, 256, (len(span.frames), 32, 32, 3), dtype=torch.uint8)
    upscaler = take.upscaler.model
    stage = UpscaleStage(MODEL, upscaler, take.plan, take.journal.latents)
    state = upscaler.start(2, 32, 32)
    small = frames.permute(0, 3, 1, 2).float() / 255
    wanted = torch.cat([upscaler(part, state) for part in torch.split(small, upscaler.chunk_frames)])
    got = stage(FrameChunk(span, frames)).frames
    assert torch.equal(got, (wanted * 255).round().to(torch.uint8).permute(0, 2, 3, 1))


def test_what_cannot_be_upscaled_is_refused_before_work_starts(tmp_path):
    with pytest.raises(SpecError, match="use 2 or 4"):
        parse_storyboard(SMALL, ("output.upscale=3",))
    with pytest.raises(WeightsError, match="upscaler is 'sharp'"):
        take_in(tmp_path, LARGE.replace("tiny-upscaler", "sharp"))
    assert not list(tmp_path.iterdir())
