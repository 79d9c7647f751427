from contextlib import closing
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings, strategies as st

from longtake.pipeline.errors import MediaError
from longtake.pipeline.media.aac import AacEncoder
from longtake.pipeline.testing.media import fake_sound
from longtake.pipeline.values import SoundChunk

PRIMING = 1024


def encode(borders, sample_rate=16000, channels=2):
    with closing(AacEncoder(sample_rate, channels)) as encoder:
        samples = []
        for start, stop in pairwise(borders):
            samples += encoder.encode(fake_sound(range(start, stop), sample_rate, channels))
        return [*samples, *encoder.flush()]


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(0, 9000), max_size=6))
def test_the_cuts_between_sound_chunks_leave_no_trace(cuts):
    assert encode([0, *sorted(cuts), 9000]) == encode([0, 9000])


@settings(max_examples=30, deadline=None)
@given(num_samples=st.integers(1, 6000) | st.sampled_from([1023, 1024, 1025, 2048, 4096]))
def test_packets_cover_the_priming_and_exactly_the_samples(num_samples):
    packets = encode([0, num_samples], channels=1)
    assert packets[0].start == -PRIMING
    assert packets[-1].stop == num_samples
    assert all(early.stop == late.start for early, late in pairwise(packets))


@pytest.mark.parametrize(
    ("sound", "message"),
    [
        (fake_sound(range(101, 200), 16000, 2), "continues at sample 101.*ends at 100"),
        (fake_sound(range(99, 200), 16000, 2), "continues at sample 99.*ends at 100"),
        (fake_sound(range(100, 200), 16000, 1), "1 channels at 16000 Hz.*2 at 16000 Hz"),
        (fake_sound(range(100, 200), 48000, 2), "2 channels at 48000 Hz.*2 at 16000 Hz"),
        (SoundChunk(100, 16000, torch.full((2, 2048), torch.nan)), "encoding sound samples 100"),
    ],
)
def test_sound_that_does_not_continue_the_film_is_refused(sound, message):
    with closing(AacEncoder(16000, 2)) as encoder:
        encoder.encode(fake_sound(range(100), 16000, 2))
        with pytest.raises(MediaError, match=message):
            encoder.encode(sound)


@pytest.mark.parametrize(
    ("sample_rate", "channels", "message"), [(16001, 2, "no sample rate of 16001"), (16000, 3, "3 channels")]
)
def test_sound_that_aac_cannot_hold_is_refused_with_the_cure(sample_rate, channels, message):
    with pytest.raises(MediaError, match=message):
        AacEncoder(sample_rate, channels)
