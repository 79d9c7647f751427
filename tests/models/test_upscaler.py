from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from longtake.pipeline.attention.context import ChunkCausalContext, ChunkLengths
from longtake.pipeline.errors import ShapeError, SpecError
from longtake.pipeline.models.upscaler import TINY_UPSCALER, UPSCALER, Upscaler
from longtake.pipeline.models.window_matching import STREAM

SMALL = replace(TINY_UPSCALER, chunk_frames=2, window=2)  # a history of 8 frames
SHIPPED_KIND = replace(UPSCALER, width=8, blocks=1, window_pixels=6)  # frame by frame, a history of 4


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def upscaler(config=SMALL) -> Upscaler:
    return Upscaler.untrained(config, seed=1)


def undecided(config) -> Upscaler:
    """One that looks at all that it may see, where a fresh one nearly ignores what is neither alike nor of one age."""
    model = upscaler(config)
    with torch.no_grad():
        for layer in model.attentions:
            layer.asked.zero_()
            layer.gain.mul_(0.02)
            layer.join[2].weight.mul_(10)
    return model


def footage(num_frames: int, height: int = 10, width: int = 14) -> torch.Tensor:
    return torch.rand(num_frames, 3, height, width, generator=torch.Generator().manual_seed(num_frames))


def upscale(model, frames, state) -> torch.Tensor:
    return torch.cat([model(chunk, state) for chunk in frames.split(model.chunk_frames)])


def whole(model, frames, scale=2) -> torch.Tensor:
    return upscale(model, frames, model.start(scale, *frames.shape[2:]))


def test_the_embedded_models_keep_to_a_history_of_32_frames():
    assert max(upscaler(config).history_frames for config in (UPSCALER, TINY_UPSCALER)) <= 32


@pytest.mark.parametrize("config", [SMALL, TINY_UPSCALER, replace(SMALL, attentions=1), SHIPPED_KIND])
def test_no_frame_older_than_the_history_changes_a_bit_and_a_younger_one_does(config):
    model = undecided(config)
    chunk = model.history_frames + 3 * model.chunk_frames
    frames = footage(chunk + model.chunk_frames)
    before = whole(model, frames)[chunk:]

    def changed(age):
        other = frames.clone()
        other[chunk - age] = 1 - other[chunk - age]
        return not torch.equal(whole(model, other)[chunk:], before)

    assert not any(changed(age) for age in (model.history_frames + 1, model.history_frames + model.chunk_frames))
    assert changed(model.history_frames)


@pytest.mark.parametrize("config", [SMALL, TINY_UPSCALER, SHIPPED_KIND])
def test_a_state_warmed_up_over_its_history_goes_on_bit_for_bit_wherever_it_begins(config):
    model = undecided(config)
    history = model.history_frames // model.chunk_frames
    frames = footage((2 * history + 5) * model.chunk_frames)
    expected = whole(model, frames)
    for first in range(history + 1, history + 6):  # every phase of the store's ring
        state = model.start(2, *frames.shape[2:], first_frame=(first - history) * model.chunk_frames)
        start, stop = ((first + chunks) * model.chunk_frames for chunks in (-history, 5))
        warmed = upscale(model, frames[start:stop], state)[model.history_frames :]
        assert torch.equal(warmed, expected[first * model.chunk_frames : stop])


def test_a_warm_up_that_is_a_chunk_too_short_is_told_apart():
    model = undecided(SMALL)
    history = model.history_frames // model.chunk_frames
    frames = footage(2 * model.history_frames)
    short = model.start(2, *frames.shape[2:], first_frame=2 * model.chunk_frames)
    warmed = upscale(model, frames[2 * model.chunk_frames :], short)
    skip = (history - 1) * model.chunk_frames
    assert not torch.equal(warmed[skip:], whole(model, frames)[skip + 2 * model.chunk_frames :])


def test_a_state_is_as_large_after_a_thousand_frames_as_after_ten():
    model = upscaler(replace(TINY_UPSCALER, attentions=1))
    state = model.start(4, 4, 4)
    frames = footage(20, 4, 4)
    upscale(model, frames[:12], state)
    size, saved = state.bytes, sum(x.numel() for x in state.snapshot().values())
    for _ in range(50):
        upscale(model, frames, state)
    assert state.bytes == size > 0
    assert sum(x.numel() for x in state.snapshot().values()) == saved  # its window was full by then


@pytest.mark.parametrize("done", [0, 1, 2, 7])
def test_a_restored_snapshot_goes_on_bit_for_bit(done):
    model, frames = upscaler(), footage(24)
    state = model.start(4, *frames.shape[2:])
    upscale(model, frames[: 2 * done], state) if done else None
    saved = state.snapshot()
    expected = upscale(model, frames[2 * done :], state)
    other = model.start(4, *frames.shape[2:])
    upscale(model, frames[:6], other)
    other.restore(saved)
    assert torch.equal(upscale(model, frames[2 * done :], other), expected)
    state.restore(saved)
    assert torch.equal(upscale(model, frames[2 * done :], state), expected)


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 10), (9, 7), (8, 16)])
def test_any_size_is_enlarged_whole(scale, height, width):
    frames = footage(5, height, width)
    large = whole(upscaler(), frames, scale)
    assert large.shape == (5, 3, scale * height, scale * width)
    assert large.dtype == torch.float32
    assert 0 <= large.min() <= large.max() <= 1


@pytest.mark.parametrize("config", [SMALL, TINY_UPSCALER, SHIPPED_KIND])
def test_chunk_after_chunk_equals_the_pass_over_all_of_them_that_is_trained(config):
    model = upscaler(config).double()
    frames = footage(8 * model.chunk_frames, 12, 12).double()
    tokens, length = config.chunk_frames * config.window_pixels**2, config.chunk_frames
    chunks = [ChunkLengths({STREAM: tokens}, Fraction(n * length), Fraction((n + 1) * length)) for n in range(8)]
    context = ChunkCausalContext(chunks, model.plan, model.rope)
    with torch.no_grad():
        at_once = model.enlarge(frames[None], 2, range(len(frames)), [context] * 2)
    torch.testing.assert_close(whole(model, frames), at_once[0].clamp(0, 1), rtol=0, atol=1e-6)


def test_the_store_is_what_remembers_older_chunks():
    model, frames = undecided(SMALL), footage(12)
    state = model.start(2, *frames.shape[2:])
    upscale(model, frames[:10], state)
    for store in state.stores:
        store.reset()
    assert not torch.equal(model(frames[10:], state), whole(model, frames)[10:])


def test_a_scale_that_the_model_lacks_is_refused_with_those_it_has():
    with pytest.raises(SpecError, match="scale is 3; tiny-upscaler enlarges by 2 or 4"):
        upscaler().start(3, 8, 8)


def test_what_is_not_the_next_chunk_is_refused():
    model = upscaler()
    state = model.start(2, 8, 8)
    for frames in (footage(3, 8, 8), footage(2, 8, 9), footage(2, 8, 8)[:0]):
        with pytest.raises(ShapeError, match=r"this state takes 1 to 2 frames of \[3, 8, 8\]"):
            model(frames, state)
    model(footage(1, 8, 8), state)
    with pytest.raises(ShapeError, match="the chunk before frame 1 was shorter than 2 frames"):
        model(footage(2, 8, 8), state)
