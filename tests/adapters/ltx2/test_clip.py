"""A whole clip equals that of diffusers' LTX2Pipeline with the same prompt, noise, steps and guidance."""

import pytest

from longtake.jobs.bench.ltx2_parity import GUIDANCE, clip_difference


@pytest.mark.parametrize("scales", GUIDANCE.values(), ids=GUIDANCE)
def test_picture_and_sound_equal_those_of_the_pipeline(scales):
    assert clip_difference(scales) <= 1e-5
