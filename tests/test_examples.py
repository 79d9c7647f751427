"""Every script in examples/ runs from start to end, as a user would run it."""

import os
from pathlib import Path

import pytest
import ray

from tests import forked

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
ON_RAY = {"batch", "render"}
SAYS = {
    "batch": "seed-2 done",
    "custom_observer": "denoise",
    "render": "4 s, 64 frames, 64000 samples",
    "stream_to_numpy": "64 frames, 64000 samples",
    "upscale": "large.mp4",
}


def test_each_example_has_its_expected_output():
    assert {example.stem for example in EXAMPLES} == SAYS.keys()


def run(name, folder, **environment):
    example = next(example for example in EXAMPLES if example.stem == name)
    return forked.run(example, cwd=folder, env={**os.environ, **environment})


@pytest.mark.parametrize("name", sorted(SAYS.keys() - ON_RAY))
def test_an_example_runs(name, tmp_path):
    ended = run(name, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert SAYS[name] in ended.stdout


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("name", sorted(ON_RAY))
def test_an_example_on_ray_runs(name, tmp_path):
    ended = run(name, tmp_path, RAY_ADDRESS=ray.get_runtime_context().gcs_address)
    assert ended.returncode == 0, ended.stderr
    assert SAYS[name] in ended.stdout
