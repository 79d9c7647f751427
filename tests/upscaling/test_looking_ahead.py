"""A model that looks ahead, and back further than can be repeated: FlashVSR, tiny and random, over footage."""

from dataclasses import replace

import pytest
import torch

from longtake.pipeline.adapters.upscalers import open_upscaler
from longtake.pipeline.errors import SpecError, WeightsError
from longtake.pipeline.footage.index import open_footage
from longtake.pipeline.footage.pictures import read_pictures
from longtake.pipeline.models.streaming_upscaler import grid_of
from longtake.pipeline.models.upscaler import TINY_UPSCALER, Upscaler
from longtake.pipeline.upscale_film import upscale
from longtake.pipeline.upscaling.boundary import boundary_error
from longtake.pipeline.upscaling.footage_segment import FootageSegmentMaker, enlarged, start
from longtake.pipeline.upscaling.output import Output
from longtake.pipeline.upscaling.plan import Exact, Handoff, UpscaleSpec, WarmUp
from longtake.pipeline.upscaling.preflight import check_model, worker_bytes
from longtake.pipeline.upscaling.work import numerics, open_upscaling
from longtake.pipeline.weights.load import save_model
from tests.adapters.flashvsr.tiny import DIT, SIZES, film, save_tiny_flashvsr, tiny_flashvsr
from tests.upscale_clip import CUT, FRAMES, packets_of, write_clip

WISH = UpscaleSpec(scale=4, segment_frames=16, codec="ffv1", continuity=Handoff())


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return open_footage(write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4"))


@pytest.fixture(scope="module")
def model():
    return tiny_flashvsr()


@pytest.fixture(scope="module")
def uninterrupted(clip, model):
    """Pictures of both scenes, each one stream."""
    scenes = []
    for frames in (range(CUT), range(CUT, FRAMES)):
        state = model.start(4, clip.height, clip.width)
        scenes.append(torch.stack(list(model.stream(read_pictures(clip, frames), state))))
    return torch.cat(scenes)


def work_of(clip, model, out, spec=WISH, cuts=(CUT,)):
    return open_upscaling(clip, cuts, spec, Output(str(out)).journal, numerics(model), grid_of(model))


def pictures_of(work, model, span, first=None):
    position = start(work, model, span, span.warm_up.start if first is None else first)
    return torch.cat(list(enlarged(work, model, span, position)))


def test_borders_lie_where_pictures_become_ready_and_all_that_they_wait_for_lies_in_the_scene(clip, model, tmp_path):
    spans = work_of(clip, model, tmp_path / "out.mkv").plan.segments
    assert [(span.frames, span.ahead) for span in spans] == [
        (range(21), range(21, 25)),
        (range(21, 33), range(33, 33)),  # a border at 29 + 8 would lie behind the scene's end
        (range(33, 54), range(54, 58)),
        (range(54, 60), range(60, 60)),
    ]
    near = work_of(clip, model, tmp_path / "out.mkv", cuts=(24,)).plan.segments[0]
    assert near.frames == range(24), "a border at 21 would wait for frame 25, which is of another scene"


def test_a_warm_up_begins_on_the_models_own_grid(clip, model, tmp_path):
    for frames, first in ((0, 16), (5, 16), (6, 8), (99, 0)):
        span = work_of(clip, model, tmp_path / "out.mkv", replace(WISH, continuity=WarmUp(frames))).plan.segments[1]
        assert span.warm_up == range(first, 21)


@pytest.mark.parametrize("segment_frames", [16, 25, 1000])
def test_a_handoff_is_one_uninterrupted_stream_bit_for_bit(segment_frames, clip, model, uninterrupted, tmp_path):
    spec = replace(WISH, segment_frames=segment_frames)
    work = work_of(clip, model, tmp_path / "out.mkv", spec)
    position, pictures = None, []
    for span in work.plan.segments:
        if span.opens_scene:
            position = start(work, model, span, span.scene_start)
        pictures += enlarged(work, model, span, position)
        position = position._replace(frame=span.ahead.stop, picture=span.frames.stop)
    assert torch.equal(torch.cat(pictures), uninterrupted)


def test_a_handoff_through_the_journal_writes_the_packets_of_one_pass(clip, model, tmp_path):
    upscale(clip, replace(WISH, segment_frames=1000), model, Output(str(tmp_path / "whole.mkv")))
    upscale(clip, WISH, model, Output(str(tmp_path / "out.mkv")))
    assert packets_of(tmp_path / "out.mkv") == packets_of(tmp_path / "whole.mkv")
    fresh = work_of(clip, model, tmp_path / "fresh.mkv")
    passed = [
        FootageSegmentMaker(fresh, model)(span).passed_frames for span in fresh.plan.segments
    ]  # each by a new maker
    assert passed == [25, 8, 25, 2], "every frame once"
    assert fresh.plan.num_passed_frames == FRAMES
    upscale(clip, WISH, model, Output(str(tmp_path / "fresh.mkv")))
    assert packets_of(tmp_path / "fresh.mkv") == packets_of(tmp_path / "whole.mkv")


def test_a_warm_up_over_the_history_is_exact_and_a_shorter_one_is_measured(tmp_path, model):
    clip = open_footage(write_clip(tmp_path / "long.mp4", 126, sound=False))
    spec = replace(WISH, segment_frames=100, continuity=WarmUp(model.history_frames))
    work = work_of(clip, model, tmp_path / "out.mkv", spec, cuts=())
    span = work.plan.segments[1]
    assert span.warm_up.start > 0
    state = model.start(4, clip.height, clip.width)
    whole = torch.stack(list(model.stream(read_pictures(clip, range(126)), state)))
    assert torch.allclose(pictures_of(work, model, span), whole[span.frames.start :], rtol=0, atol=1e-5)
    assert not work.approximates
    short = work_of(clip, model, tmp_path / "out.mkv", replace(spec, continuity=WarmUp(0)), cuts=())
    error = boundary_error(short, model)
    assert short.approximates
    assert error.frames == span.frames
    assert 0 < error.mean < error.most
    longer = boundary_error(work_of(clip, model, tmp_path / "out.mkv", replace(spec, continuity=WarmUp(24)), ()), model)
    assert longer.mean < error.mean / 2


def test_the_error_of_a_short_warm_up_comes_with_the_output(clip, model, tmp_path):
    upscaled = upscale(clip, replace(WISH, continuity=WarmUp(8)), model, Output(str(tmp_path / "out.mkv")))
    assert 0 < upscaled.error.mean < upscaled.error.most


def test_what_the_model_cannot_do_is_refused_with_the_number_and_the_cure(clip, model, tmp_path):
    with pytest.raises(SpecError, match=r"--scale is 2; FlashVSR v1.1 enlarges by 4"):
        upscale(clip, replace(WISH, scale=2), model, Output(str(tmp_path / "out.mkv")))
    check_model(model, replace(WISH, continuity=Exact()))  # this one looks back 88 frames
    deep = tiny_flashvsr(sizes=replace(SIZES, dit=replace(DIT, layers=12)))
    refusal = r"over 328 frames before every segment, and 256 are the most; use --continuity handoff, .* or warmup=N"
    with pytest.raises(SpecError, match=refusal):
        upscale(clip, replace(WISH, continuity=Exact()), deep, Output(str(tmp_path / "out.mkv")))
    assert not list(tmp_path.iterdir())


def test_a_file_is_opened_as_what_its_header_says(tmp_path, model):
    opened = open_upscaler(save_tiny_flashvsr(tmp_path / "flashvsr.safetensors"))
    assert (opened.name, opened.fingerprint()) == ("FlashVSR v1.1", model.fingerprint())
    save_model(Upscaler.untrained(TINY_UPSCALER), str(tmp_path / "own.safetensors"))
    assert open_upscaler(str(tmp_path / "own.safetensors")).name == "tiny-upscaler"
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    for name in (str(tmp_path / "torn.safetensors"), str(tmp_path / "gone.safetensors"), "sharp"):
        with pytest.raises(WeightsError):
            open_upscaler(name)


def test_other_settings_or_another_variant_are_another_film(model):
    others = [tiny_flashvsr("v1"), tiny_flashvsr(settings=replace(model.settings, seed=1))]
    assert len({model.fingerprint(), *(other.fingerprint() for other in others)}) == 3


def test_the_memory_that_is_asked_for_holds_what_a_stream_remembers(clip, model):
    state = model.start(4, 64, 96)
    model.push(film(41, 64, 96), state)
    assert model.working_bytes(4, 64, 96) > state.bytes
    assert worker_bytes(clip, 4, model) > model.working_bytes(4, clip.height, clip.width)
