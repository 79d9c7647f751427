"""Renders from a working directory that has folders named like ours."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray

ROOT = Path(__file__).parents[2]
STORYBOARD = "{model: tiny, sampling: {steps: 1}, scenes: [{prompt: a red circle bounces, duration: 1s}]}"


@pytest.mark.usefixtures("ray_cluster")
def test_folders_of_the_user_that_are_named_like_ours_are_not_imported(tmp_path):
    for name in ("pipeline", "actors", "jobs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise ImportError('{name} of the user was imported')\n")
    (tmp_path / "film.yaml").write_text(STORYBOARD)
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "longtake.jobs.render", "film.yaml", "-o", "out", "--address", address]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "out" / "film.mp4").exists()
