"""FlashVSR as a stream: as many frames out as in, the same however they come, and nothing that grows."""

from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image

from longtake.pipeline.adapters.flashvsr.attention import attend_densely
from longtake.pipeline.adapters.flashvsr.model import FlashVSR, FlashVSRSettings, FlashVSRSizes, enlarged, recoloured
from longtake.pipeline.errors import SpecError
from tests.adapters.flashvsr.tiny import film, tiny_flashvsr, upscaled
from tests.adapters.flashvsr.whole import upscaled_at_once

FIRST_IN, FIRST_OUT = 25, 21


@cache
def pushed_at_once(num_frames: int) -> torch.Tensor:
    """The pictures of a film whose frames are pushed together."""
    return upscaled(tiny_flashvsr(), film(num_frames))


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


@pytest.mark.parametrize("num_frames", [0, 1, 21, 22, 30])
def test_as_many_pictures_come_out_as_frames_went_in(num_frames):
    pictures = upscaled(tiny_flashvsr(), film(num_frames), step=7)
    assert pictures.shape == (num_frames, 3, 128, 128)
    assert pictures.dtype == torch.float32
    assert torch.equal(pictures, pictures.clamp(0, 1))


@pytest.mark.parametrize("step", [1, 5, 24])
def test_how_frames_are_pushed_changes_nothing(step):
    model, frames = tiny_flashvsr(), film(50)
    assert torch.equal(upscaled(model, frames, step=step), pushed_at_once(50))


@torch.inference_mode()
def test_the_stream_is_the_whole_film_at_once():
    settings = FlashVSRSettings(attend=attend_densely, colour_fix=False)
    model, frames = tiny_flashvsr(settings=settings, dtype=torch.float64), film(45)
    whole = upscaled_at_once(model, frames)
    assert whole.std() > 0.01
    assert apart(upscaled(model, frames), whole) <= 1e-8


def test_a_stream_gives_one_picture_for_each_frame_in_turn():
    model, frames = tiny_flashvsr(), film(30)
    pictures = list(model.stream(iter(frames), model.start(4, 32, 32)))
    assert torch.equal(torch.stack(pictures), upscaled(model, frames))


def test_pictures_come_out_four_frames_after_their_chunk():
    model, frames = tiny_flashvsr(), film(50)
    state = model.start(4, 32, 32)
    counts = [len(model.push(frame.unsqueeze(0), state)) for frame in frames]
    ready = {number: count for number, count in enumerate(counts, start=1) if count}
    assert ready == {25: 21, 33: 8, 41: 8, 49: 8}


@pytest.mark.parametrize("changed", [FIRST_IN, FIRST_IN - 1])
def test_a_picture_depends_on_no_frame_beyond_its_chunk_and_four(changed):
    others = film(40)
    others[changed:] = film(40, seed=2)[changed:]
    difference = apart(pushed_at_once(40)[:FIRST_OUT], upscaled(tiny_flashvsr(), others)[:FIRST_OUT])
    assert (difference == 0) == (changed == FIRST_IN)


def test_the_length_of_a_film_changes_no_frame_before_its_end():
    assert torch.equal(film(50)[:33], film(33))
    assert torch.equal(pushed_at_once(50)[:29], pushed_at_once(33)[:29])


def test_a_stream_that_starts_its_history_earlier_equals_one_from_the_start():
    model = tiny_flashvsr(dtype=torch.float64)
    start, history = 16, model.history_frames
    frames = film(start + history + 16)
    whole = upscaled(model, frames)[start:]
    late = upscaled(model, frames[start:], first_frame=start)
    assert torch.equal(whole[history:], late[history:])
    assert apart(whole[:FIRST_OUT], late[:FIRST_OUT]) > 1e-2
    assert apart(whole[history - 16 : history], late[history - 16 : history]) > 0, "no frame of it is in vain"


def test_the_history_of_the_published_sizes_is_760_frames():
    with torch.device("meta"):
        model = FlashVSR(FlashVSRSizes(), "v1.1", FlashVSRSettings())
    assert model.history_frames == 30 * 3 * 8 + 8 + 32


def test_a_state_holds_the_same_bytes_after_50_chunks():
    model, frames = tiny_flashvsr(), film(8)
    state = model.start(4, 32, 32)
    model.push(film(FIRST_IN), state)
    sizes = []
    for _ in range(50):
        model.push(frames, state)
        sizes.append(state.bytes)
    assert len(set(sizes)) == 1
    assert state.next_latent == 6 + 50 * 2


def test_a_stream_goes_on_from_a_snapshot():
    model, frames = tiny_flashvsr(), film(60)
    state = model.start(4, 32, 32)
    model.push(frames[:30], state)
    saved = state.snapshot()
    undisturbed = model.push(frames[30:], state)
    other = model.start(4, 32, 32)
    other.restore(saved)
    assert torch.equal(model.push(frames[30:], other), undisturbed)


def test_latents_far_beyond_the_published_table_are_positions_like_others():
    model = tiny_flashvsr()
    pictures = upscaled(model, film(33), first_frame=8 * 100_000)
    assert torch.isfinite(pictures).all()
    assert apart(pictures, pushed_at_once(33)) > 1e-4, "the noise is another one"


@pytest.mark.parametrize(("height", "width"), [(37, 25), (1, 3)])
def test_odd_sizes_are_padded_inside_and_cut_back(height, width):
    pictures = upscaled(tiny_flashvsr(), film(3, height, width))
    assert pictures.shape == (3, 3, 4 * height, 4 * width)


def test_the_last_row_and_column_are_upscaled_too():
    model, frames = tiny_flashvsr(), film(3, 5, 33)
    others = frames.clone()
    others[..., 4, 32] = 1 - others[..., 4, 32]
    assert apart(upscaled(model, frames)[..., -1, -1], upscaled(model, others)[..., -1, -1]) > 1e-4


def test_frames_are_enlarged_as_pillow_does():
    frame = film(1, 12, 9)[:, :1]
    pillow = Image.fromarray(frame[0, 0].numpy()).resize((36, 48), Image.Resampling.BICUBIC)
    assert apart(enlarged(frame)[0, 0], torch.from_numpy(np.array(pillow)).clamp(0, 1)) <= 1e-6


def test_recoloured_pictures_have_the_mean_and_deviation_of_those_given():
    pictures, given = film(2).double(), 0.3 * film(2, seed=2).double() + 0.1
    (variance, mean), (wanted, middle) = (torch.var_mean(x, dim=(-2, -1)) for x in (recoloured(pictures, given), given))
    assert apart(mean, middle) <= 1e-12
    assert apart(variance, wanted) <= 1e-5


def test_a_scale_or_a_start_that_it_lacks_is_refused_with_the_cure():
    model = tiny_flashvsr()
    with pytest.raises(SpecError, match="upscale by 4 and reduce"):
        model.start(2, 32, 32)
    with pytest.raises(SpecError, match="start at 16, a multiple of 8"):
        model.start(4, 32, 32, first_frame=20)
