"""Inputs that are no ordinary files, and folders that the environment names."""

import json
import os
import socket

import numpy as np
import pytest

from longtake.jobs.doctor.places import check_address, check_places
from tests.inspect.shapes_film import write_mp4

BOARD = "{model: tiny, sampling: {steps: 1}, scenes: [{prompt: a red circle bounces, duration: 1s}]}"
LONG = "/tmp/" + "long/" * 9


@pytest.mark.parametrize("verb", ["inspect", "upscale"])
@pytest.mark.parametrize("name", ["pipe", "pipe.mp4", "/dev/null", "/dev/zero"])
def test_a_pipe_or_a_device_is_no_film(command, tmp_path, verb, name):
    if name.startswith("pipe"):
        os.mkfifo(tmp_path / name)
    more = ("-o", tmp_path / "out.mp4") if verb == "upscale" else ()
    answer = command(verb, tmp_path / name, *more)
    assert answer.returncode == 2
    assert f"{tmp_path / name} is a pipe or a device, which can be read only once" in answer.stderr


def test_a_socket_is_no_film_nor_is_a_folder_without_a_take(command, tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        assert command("inspect", tmp_path / "socket").returncode == 2
    (tmp_path / "folder.mp4").mkdir()
    assert "is a folder; name a film" in command("inspect", tmp_path / "folder.mp4").stderr
    for place in (tmp_path, "."):
        answer = command("inspect", place)
        assert answer.returncode == 2
        assert "holds no take" in answer.stderr


@pytest.mark.parametrize(
    ("variable", "folder", "what"),
    [
        ("RAY_TMPDIR", LONG, "bytes too long for Ray's sockets"),
        ("TMPDIR", LONG, "bytes too long for Ray's sockets"),
        ("RAY_TMPDIR", "/proc/none", "Ray cannot write there: /proc: "),
    ],
)
def test_a_folder_that_cannot_hold_rays_sockets_is_named_before_work(
    command, tmp_path, monkeypatch, variable, folder, what
):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setenv(variable, folder)
    (tmp_path / "film.yaml").write_text(BOARD)
    (tmp_path / "takes.yaml").write_text("takes: [{id: a, storyboard: film.yaml}]")
    for verb, board in (("render", "film.yaml"), ("batch", "takes.yaml")):
        answer = command(verb, tmp_path / board, "-o", tmp_path / "out")
        assert answer.returncode == 2, answer
        assert f"{variable} is {folder}" in answer.stderr
        assert what in answer.stderr
        assert "set RAY_TMPDIR to a short folder" in answer.stderr
        assert not (tmp_path / "out").exists()
    found = {finding.check: finding for finding in check_places()}
    assert found["temporary files"].level == "FAIL"
    assert found["temporary files"].fix.startswith("set RAY_TMPDIR")


def test_the_doctor_finds_a_cluster_that_cannot_be_joined_and_a_read_only_home(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    (finding,) = check_address()
    assert finding.level == "FAIL"
    assert finding.seen.startswith("RAY_ADDRESS is 127.0.0.1:1, and no Ray cluster")
    assert finding.fix.endswith("or unset RAY_ADDRESS")
    monkeypatch.delenv("RAY_ADDRESS")
    assert [finding.level for finding in check_address()] == ["ok"]
    monkeypatch.delenv("LONGTAKE_CACHE", raising=False)
    monkeypatch.setenv("HOME", "/proc/nobody")
    found = {finding.check: finding for finding in check_places()}
    assert found["downloads"].level == "warn"
    assert "LONGTAKE_CACHE" in found["downloads"].fix


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (["{full}"], "exists and is not overwritten; use another OUT"),
        (["{file}/below.safetensors"], "cannot be written"),
        (["/proc/none/out.safetensors"], "cannot be written"),
        (["{out}", "--lora-alpha", "0"], "--lora-alpha is 0"),
    ],
)
def test_mistakes_in_a_conversion_are_those_of_the_call(command, tmp_path, flags, what):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("in the way")
    places = {name: tmp_path / where for name, where in (("full", "full"), ("file", "full/file"), ("out", "out"))}
    answer = command("convert", tmp_path / "full" / "file", *(flag.format(**places) for flag in flags))
    assert answer.returncode == 2, answer
    assert what in answer.stderr
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full"]


def test_an_inspection_says_how_far_it_is(command, tmp_path):
    film = write_mp4(tmp_path / "film.mp4", np.zeros((40, 48, 64, 3), np.uint8))
    answer = command("inspect", film, "--progress", "json", check=True)
    lines = [json.loads(line) for line in answer.stdout.splitlines()]
    counts = [(line["done"], line["total"]) for line in lines if line.get("unit") == "frames"]
    assert counts[0] == (0, 40)
    assert counts[-1] == (40, 40)
    assert lines[-1]["grade"]
