"""All values of a storyboard beyond the model's limits are reported at once, each with the limit."""

import re
from fractions import Fraction

import pytest

from longtake.pipeline.errors import SpecError
from longtake.pipeline.models.limits import ModelLimits, SizeLimits, check_against
from longtake.pipeline.spec import parse_storyboard

SCENES = "scenes: [{prompt: a red circle, duration: 2s}, {prompt: a blue square, duration: 36f, transition: cut}]\n"
LIMITS = ModelLimits(
    name="tiny",
    width=SizeLimits(16, 32, 256),
    height=SizeLimits(16, 32, 128),
    sample_rates=(16_000,),
    min_fps=Fraction(8),
    max_fps=Fraction(30),
    max_prompt_words=12,
    max_duration_s=Fraction(60),
)


def test_a_storyboard_within_the_limits_passes():
    check_against(parse_storyboard(SCENES), LIMITS)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("video.width=72", "video.width is 72; tiny renders multiples of 16 from 32 to 256, use 64 or 80"),
        ("video.height=160", "video.height is 160; tiny renders multiples of 16 from 32 to 128, use 128"),
        ("video.height=2", "video.height is 2; tiny renders multiples of 16 from 32 to 128, use 32"),
        ("video.fps=60", "video.fps is 60; tiny renders 8 to 30, use a rate of these"),
        ("audio.sample_rate=48000", "audio.sample_rate is 48000; tiny renders 16000"),
        (f"scenes.1.prompt={'a ' * 13}", "scenes[1].prompt has 13 words; tiny reads 12"),
        ("scenes.1.duration=2m", "scenes last 122 s together; tiny renders 60 s"),
    ],
)
def test_a_value_beyond_the_model_is_refused_with_the_limit(override, said):
    with pytest.raises(SpecError, match=re.escape(said)):
        check_against(parse_storyboard(SCENES, [override]), LIMITS)


def test_all_values_beyond_the_model_are_reported_at_once():
    with pytest.raises(SpecError) as caught:
        check_against(parse_storyboard(SCENES, ["video.width=8", "video.fps=60", "audio.sample_rate=8000"]), LIMITS)
    assert len(str(caught.value).split("\n")) == 3
