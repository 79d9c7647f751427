"""A film from a storyboard equals the clip of diffusers' pipeline, with few steps; `bench parity-road` takes all."""

import pytest

from longtake.jobs.bench.parity_road import CASES, difference


@pytest.mark.parametrize("name", ["wan_2_1", "wan_2_1_euler", "wan_2_2_a14b", "wan_2_2_5b_image", "ltx2_3"])
def test_a_film_equals_diffusers_clip(name, tmp_path):
    assert difference(CASES[name], tmp_path, steps=3) <= 1e-5
