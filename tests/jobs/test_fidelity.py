import numpy as np
import pytest
import torch

from longtake.jobs.bench.fidelity import PooledMatches, sample_captions
from longtake.jobs.bench.film_ratings import FilmToRate, Rating, one_stream, plan_of, rate, render
from longtake.pipeline.models.embedded import TINY, EmbeddedModel
from longtake.pipeline.training.world import HELD_OUT, Caption

CAPTION = Caption("red", "circle", "bounces fast", "dark")


def rating(hits, onsets, seconds=10) -> Rating:
    nothing = np.zeros(0)
    return Rating(
        FilmToRate(CAPTION, seconds, 0), True, np.array(hits), np.array(onsets), 0, nothing, nothing, 0.0, 0.0
    )


def test_the_sample_has_every_held_out_caption_and_every_caption_with_sound_once():
    captions = sample_captions(seed=3)
    assert len(captions) == len(set(captions)) == 100
    assert set(HELD_OUT) <= set(captions)
    assert sum(caption.sounds for caption in captions) == 72
    assert captions == sample_captions(seed=3) != sample_captions(seed=4)


def test_hits_and_onsets_are_matched_within_each_film_and_counted_together():
    films = [rating([1.0, 2.0], [1.02, 2.02]), rating([4.0], [1.0])]
    pooled = PooledMatches(films)
    assert pooled.f1 == pytest.approx(2 * 2 / 6)
    assert pooled.offset_ms == pytest.approx(20)
    assert pooled.offset_abs_ms == pytest.approx(20)
    assert PooledMatches(films, tolerance_s=0.01).f1 == 0


def test_the_control_shifts_sound_by_half_a_film():
    assert PooledMatches([rating([1.0], [1.0])], shifted=True).f1 == 0
    assert PooledMatches([rating([1.0], [6.0])], shifted=True).f1 == 1


def test_offsets_are_centred_film_by_film():
    times, offsets = PooledMatches([rating([1, 2, 3], [1.01, 2.01, 3.03]), rating([5], [5.02])]).centred()
    np.testing.assert_allclose(times, [1, 2, 3, 5])
    np.testing.assert_allclose(offsets, [0, 0, 0.02, 0], atol=1e-9)


@pytest.fixture(scope="module")
def tiny():
    return EmbeddedModel.untrained(TINY, seed=2)


def test_a_film_is_rendered_and_rated_in_memory(tiny):
    rated = rate(tiny, FilmToRate(CAPTION, 3, seed=1))
    assert not rated.accurate
    assert len(rated.at_chunks) == 2
    assert len(rated.at_latents) == 9


def test_without_attention_between_picture_and_sound_neither_depends_on_the_other(tiny):
    """With other weights for sound, the picture stays the same bit for bit."""
    plan = plan_of(tiny, FilmToRate(CAPTION, 2, seed=1, apart=True))
    other = EmbeddedModel.untrained(TINY, seed=2)
    with torch.no_grad():
        for name, parameter in other.denoiser.named_parameters():
            if "audio" in name:
                parameter.mul_(1.5)
    for (frames, sound), (same, heard) in zip(
        render(tiny, plan, apart=True), render(other, plan, apart=True), strict=True
    ):
        assert torch.equal(frames.frames, same.frames)
        assert not torch.equal(sound.pcm, heard.pcm)
    together = next(render(tiny, plan))
    assert not torch.equal(together[0].frames, next(render(tiny, plan, apart=True))[0].frames)


def test_the_sites_of_one_stream_hold_only_that_stream(tiny):
    (site,) = one_stream(tiny, "audio").denoiser.sites(8, 8, 4, 20)
    assert [stream.name for stream in site.streams] == ["audio", "text"]
