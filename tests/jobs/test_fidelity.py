import numpy as np
import pytest
import torch

from longtake.jobs.bench.fidelity import Pool, showcase
from longtake.jobs.bench.screening import Notes, Showing, make, one_stream, plan_of, watch
from longtake.pipeline.models.embedded import TINY, EmbeddedModel
from longtake.pipeline.training.world import HELD_OUT, Caption

CAPTION = Caption("red", "circle", "bounces fast", "dark")


def notes(hits, onsets, seconds=10) -> Notes:
    nothing = np.zeros(0)
    return Notes(Showing(CAPTION, seconds, 0), True, np.array(hits), np.array(onsets), 0, nothing, nothing, 0.0, 0.0)


def test_the_showcase_holds_every_held_out_caption_and_each_that_sounds_once():
    captions = showcase(seed=3)
    assert len(captions) == len(set(captions)) == 100
    assert set(HELD_OUT) <= set(captions)
    assert sum(caption.sounds for caption in captions) == 72
    assert captions == showcase(seed=3) != showcase(seed=4)


def test_films_are_matched_apart_and_counted_together():
    films = [notes([1.0, 2.0], [1.02, 2.02]), notes([4.0], [1.0])]
    pool = Pool(films)
    assert pool.f1 == pytest.approx(2 * 2 / 6)
    assert pool.offset_ms == pytest.approx(20)
    assert pool.offset_abs_ms == pytest.approx(20)
    assert Pool(films, tolerance_s=0.01).f1 == 0


def test_the_control_shifts_sound_by_half_a_film():
    assert Pool([notes([1.0], [1.0])], shifted=True).f1 == 0
    assert Pool([notes([1.0], [6.0])], shifted=True).f1 == 1


def test_offsets_are_centred_film_by_film():
    times, offsets = Pool([notes([1, 2, 3], [1.01, 2.01, 3.03]), notes([5], [5.02])]).centred()
    np.testing.assert_allclose(times, [1, 2, 3, 5])
    np.testing.assert_allclose(offsets, [0, 0, 0.02, 0], atol=1e-9)


@pytest.fixture(scope="module")
def tiny():
    return EmbeddedModel.untrained(TINY, seed=2)


def test_a_film_is_made_and_read_in_memory(tiny):
    read = watch(tiny, Showing(CAPTION, 3, seed=1))
    assert not read.accurate
    assert len(read.at_chunks) == 2
    assert len(read.at_latents) == 9


def test_streams_that_are_apart_do_not_touch_each_other(tiny):
    """Whatever the sound's weights are, the picture stays, and the other way round."""
    showing = Showing(CAPTION, 2, seed=1, apart=True)
    plan = plan_of(tiny, showing)
    other = EmbeddedModel.untrained(TINY, seed=2)
    with torch.no_grad():
        for name, parameter in other.denoiser.named_parameters():
            if "audio" in name:
                parameter.mul_(1.5)
    for (frames, sound), (same, heard) in zip(make(tiny, plan, apart=True), make(other, plan, apart=True), strict=True):
        assert torch.equal(frames.frames, same.frames)
        assert not torch.equal(sound.pcm, heard.pcm)
    together = next(make(tiny, plan))
    assert not torch.equal(together[0].frames, next(make(tiny, plan, apart=True))[0].frames)


def test_one_stream_has_room_for_that_stream_alone(tiny):
    (site,) = one_stream(tiny, "audio").denoiser.sites(8, 8, 4, 20)
    assert [stream.name for stream in site.streams] == ["audio", "text"]
