"""`import longtake`: render, stream, upscale and inspect from Python."""

import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

import longtake
from longtake.pipeline.media.read import read_film

STORYBOARD = {
    "model": "tiny",
    "sampling": {"steps": 1},
    "scenes": [{"prompt": "a red circle", "duration": "4s"}, {"prompt": "a", "duration": "2s", "transition": "cut"}],
}


class Recorder:
    def __init__(self):
        self.events = []

    def event(self, name, **fields):
        self.events.append((name, fields))


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    out = tmp_path_factory.mktemp("api") / "whole"
    return out, longtake.render(STORYBOARD, out, in_process=True)


def test_importing_longtake_imports_neither_torch_nor_ray():
    script = "import sys, longtake; print(*({'torch', 'ray', 'pydantic'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "\n"


def test_every_public_name_exists():
    assert all(getattr(longtake, name) is not None for name in longtake.__all__)
    with pytest.raises(AttributeError, match="no attribute 'rendr'"):
        longtake.rendr  # noqa: B018


def test_a_film_from_a_mapping_equals_the_film_from_its_file(rendered, tmp_path):
    out, film = rendered
    (tmp_path / "film.yaml").write_text(
        "model: tiny\nsampling: {steps: 1}\nscenes:\n- {prompt: a red circle, duration: 4s}\n"
        "- {prompt: a, duration: 2s, transition: cut}\n"
    )
    other = longtake.render(tmp_path / "film.yaml", tmp_path / "out", in_process=True)
    assert (other.num_frames, other.num_samples) == (film.num_frames, film.num_samples) == (96, 96_000)
    assert (tmp_path / "out/film.mp4").read_bytes() == (out / "film.mp4").read_bytes()


def test_a_stream_holds_the_frames_of_the_film_and_its_sound(rendered, tmp_path):
    out, _ = rendered
    chunks = list(longtake.stream(STORYBOARD, tmp_path / "streamed", in_process=True))
    assert [chunk.index for chunk in chunks] == [*range(len(chunks))]
    assert [chunk.scene for chunk in chunks] == [0] * 4 + [1] * 2
    frames, sound = np.concatenate([c.frames for c in chunks]), np.concatenate([c.sound for c in chunks])
    assert (frames.dtype, frames.shape) == (np.uint8, (96, 64, 64, 3))
    assert (sound.dtype, sound.shape) == (np.float32, (96_000, 1))
    assert torch.equal(torch.from_numpy(frames), read_film(str(out / "film.mp4")).frames)
    assert (tmp_path / "streamed/film.mp4").read_bytes() == (out / "film.mp4").read_bytes()


def test_a_stream_that_is_closed_ends_its_render_and_the_next_one_resumes_with_the_same_chunks(rendered, tmp_path):
    first = longtake.stream(STORYBOARD, tmp_path / "out", in_process=True)
    chunk = next(first)
    first.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "longtake-stream"]
    recorder = Recorder()
    again = list(longtake.stream(STORYBOARD, tmp_path / "out", in_process=True, observer=recorder))
    assert np.array_equal(again[0].frames, chunk.frames)
    assert len([name for name, _ in recorder.events if name == "denoise.chunk"]) < len(again)
    assert (tmp_path / "out/film.mp4").read_bytes() == (rendered[0] / "film.mp4").read_bytes()


def test_mistakes_are_errors_of_longtake_and_name_the_fix(tmp_path):
    with pytest.raises(longtake.SpecError, match=r"scenes\[0\].duration"):
        longtake.render({"scenes": [{"prompt": "a", "duration": "4"}]}, tmp_path / "out", in_process=True)
    with pytest.raises(longtake.SpecError, match="no option 'rank'; use overrides, model"):
        longtake.render(STORYBOARD, tmp_path / "out", rank=2)
    with pytest.raises(longtake.SpecError, match="no option 'scal'; use scale, workers"):
        longtake.upscale("in.mp4", tmp_path / "out.mp4", scal=2)
    with pytest.raises(longtake.SpecError, match="no option 'gang'; use gangs"):
        longtake.batch({"takes": []}, tmp_path / "out", gang=1)
    with pytest.raises(longtake.SpecError, match="pass a path, a URL, a mapping or a Storyboard"):
        longtake.render(42, tmp_path / "out", in_process=True)
    with pytest.raises(longtake.SpecError, match="steps is 0"):
        next(longtake.stream(STORYBOARD, tmp_path / "out", overrides=["sampling.steps=0"], in_process=True))
    with pytest.raises(longtake.WeightsError, match="use sounding-shapes"):
        longtake.open_model("soundingshapes")
    assert not (tmp_path / "out").exists()


def test_an_error_of_the_observer_ends_the_render_and_keeps_what_is_finished(tmp_path):
    class Stops:
        def event(self, name, **fields):
            if name == "encode.chunk" and fields["chunk"] == 2:
                raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        longtake.render(STORYBOARD, tmp_path / "out", in_process=True, observer=Stops())
    recorder = Recorder()
    longtake.render(STORYBOARD, tmp_path / "out", in_process=True, observer=recorder)
    assert [fields["chunk"] for name, fields in recorder.events if name == "denoise.chunk"] == [3, 4, 5]


def test_a_film_is_inspected_and_enlarged(rendered, tmp_path):
    out, _ = rendered
    report = longtake.inspect(out)
    assert (report.container.frames, report.as_dict()["grade"]) == (96, report.grade)
    large = longtake.upscale(out / "film.mp4", tmp_path / "large.mp4", model="tiny-upscaler", in_process=True)
    assert read_film(large.url).frames.shape == (96, 128, 128, 3)


def test_a_model_is_opened_with_its_defaults():
    assert longtake.open_model("tiny").name == "tiny"


@pytest.mark.xdist_group("ray")
def test_renders_on_one_cluster_equal_those_in_process(rendered, tmp_path):
    with longtake.cluster(num_cpus=4):
        film = longtake.render(STORYBOARD, tmp_path / "ray")
        streamed = list(longtake.stream(STORYBOARD, tmp_path / "stream"))
    assert film.num_frames == sum(len(chunk.frames) for chunk in streamed) == 96
    for name in ("ray", "stream"):
        assert (tmp_path / name / "film.mp4").read_bytes() == (rendered[0] / "film.mp4").read_bytes()
