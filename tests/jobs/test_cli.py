import json
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path
from time import perf_counter

import pytest
from rich.console import Console

from longtake.actors.rendering import RenderOptions, open_render
from longtake.jobs.models.table import print_models
from longtake.jobs.take import print_before
from longtake.pipeline.journal.event_log import EventLog
from longtake.pipeline.journal.store import Store
from longtake.pipeline.models.embedded import TINY, EmbeddedModel
from longtake.pipeline.spec import load_storyboard
from longtake.pipeline.weights.load import save_model

LONGTAKE = [sys.executable, "-m", "longtake.jobs"]
ROOT = Path(__file__).parents[2]
WEIGHT_FLAGS = (("--dtype", "bfloat16"), ("--quantize", "float8"), ("--quantize", "float8"))
STORYBOARD = "{model: tiny, sampling: {steps: 1}, scenes: [{prompt: a red circle bounces, duration: 2s}]}"


def longtake(*arguments, check=False, **options):
    command = [*LONGTAKE, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=check, **options)


@pytest.fixture
def storyboard(tmp_path):
    path = tmp_path / "film.yaml"
    path.write_text(STORYBOARD)
    return path


def test_help_answers_within_half_a_second():
    seconds = []
    for _ in range(5):  # the fastest, since what else the machine does only adds to it
        started = perf_counter()
        answer = longtake("--help", check=True)
        seconds.append(perf_counter() - started)
        assert "render" in answer.stdout
    assert min(seconds) <= 0.5


def test_the_command_line_does_not_import_torch_or_ray():
    script = "import sys, longtake.jobs.cli; print(*({'torch', 'ray'} & sys.modules.keys()))"
    answer = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not answer.stdout.strip()


def test_init_then_dry_run_shows_the_plan_and_writes_nothing(tmp_path):
    path, out = tmp_path / "film.yaml", tmp_path / "out"
    longtake("init", path, check=True)
    assert longtake("init", path).returncode == 2, "init never overwrites"
    answer = longtake("render", path, "-o", out, "--dry-run", "--set", "model=tiny", check=True)
    for part in ("480 frames", "480000 samples", "chunks  30", "MiB", "expected", "continue", "cut"):
        assert part in answer.stdout
    assert not out.exists()


def test_render_writes_the_film_the_playlist_and_the_event_log_and_resumes_where_it_ended(storyboard, tmp_path):
    out = tmp_path / "out"
    longtake("render", storyboard, "-o", out, "--in-process", check=True)
    film = (out / "film.mp4").read_bytes()
    assert "#EXT-X-ENDLIST" in (out / "live" / "video.m3u8").read_text()
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events][:2] == ["road.start", "film.start"]
    assert events[-1]["event"] == "film.done"
    assert {event["chunk"] for event in events if event["event"] == "denoise.chunk"} == {0, 1}
    again = longtake("render", storyboard, "-o", out, "--in-process", check=True)
    assert "2 of 2 chunks are kept" in " ".join(again.stdout.split())
    refused = longtake("render", storyboard, "-o", out, "--in-process", "--set", "seed=3")
    assert refused.returncode == 2, "a finished film is not overwritten without --replace"
    assert "2 of its 2 chunks would be lost (seed was 0, is 3); add --replace" in " ".join(refused.stderr.split())
    assert (out / "film.mp4").read_bytes() == film
    edited = longtake("render", storyboard, "-o", out, "--in-process", "--set", "seed=3", "--replace", check=True)
    assert "0 of 2 chunks are kept; chunk 0: seed was 0, is 3" in " ".join(edited.stdout.split())
    assert (out / "film.mp4").read_bytes() != film


def test_the_model_its_dtype_and_its_quantization_can_be_set_by_flags(storyboard, tmp_path):
    pytest.importorskip("torchao")
    save_model(EmbeddedModel.untrained(TINY), f"{tmp_path}/own.safetensors")
    render = ("render", storyboard, "-o", tmp_path / "out", "--in-process", "--model", tmp_path / "own.safetensors")
    render = (*render, "--replace")
    outputs = [" ".join(longtake(*render, *flags, check=True).stdout.split()) for flags in WEIGHT_FLAGS]
    assert "0 of 2 chunks are kept" in outputs[1], "other bits"
    assert "2 of 2 chunks are kept" in outputs[2]
    wrong = longtake(*render, "--dtype", "int8")
    assert (wrong.returncode, "--dtype is int8; use float32" in wrong.stderr) == (2, True)


def test_fresh_starts_next_to_the_old_take_and_never_over_it(storyboard, tmp_path):
    out = tmp_path / "out"
    for _ in range(3):
        longtake("render", storyboard, "-o", out, "--in-process", "--fresh", check=True)
    assert (tmp_path / "out-2" / "film.mp4").read_bytes() == (tmp_path / "out-3" / "film.mp4").read_bytes()


def test_a_foreign_film_is_never_overwritten(storyboard, tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"precious")
    answer = longtake("render", storyboard, "-o", tmp_path, "--in-process")
    assert answer.returncode == 2
    assert "nothing was overwritten" in answer.stderr
    assert (tmp_path / "film.mp4").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("override", "code", "message"),
    [
        ("model=unknown", 1, "model is 'unknown'"),
        ("seed=-1", 2, "seed is -1"),
        ("output.film=../film.mp4", 2, "output.film"),
        ("scenes.0.prompt=a zebra bounces", 2, "'zebra'"),
    ],
)
def test_errors_are_one_message_with_a_documented_exit_code(storyboard, tmp_path, override, code, message):
    answer = longtake("render", storyboard, "-o", tmp_path / "out", "--in-process", "--set", override)
    assert answer.returncode == code
    assert message in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not (tmp_path / "out").exists()


def test_the_event_log_of_a_remote_store_is_whole():
    store = Store("memory://events")

    def broken():
        with EventLog(store) as log:
            log.event("one", number=1)
            log.event("two", number=2)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        broken()
    events = [json.loads(line) for line in store.get("events.jsonl").splitlines()]
    assert [event["event"] for event in events] == ["one", "two", "road.failed"]


def test_models_are_listed_with_licence_and_memory(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    print_models(as_json=True)
    rows = json.loads(capsys.readouterr().out)["models"]
    by_name = {row["name"]: row for row in rows}
    assert by_name["tiny"]["rollout"] == "causal"
    assert by_name["Wan-AI/Wan2.1-T2V-14B-Diffusers"]["parameters"] == 14_288_491_584
    assert "forbids commercial use" in by_name["tianweiy/CausVid"]["terms"]
    assert by_name["tiny"]["terms"] is None
    assert all(row["memory"][0]["gib"] >= row["weights_gib"] > 0 for row in rows)
    print_models(as_json=False)
    assert capsys.readouterr().out.count("forbids commercial use") == 1, "once, plainly"


def test_the_terms_of_a_model_are_printed_before_it_renders(storyboard, tmp_path, monkeypatch):
    file = f"{tmp_path}/own.safetensors"
    save_model(EmbeddedModel.untrained(TINY), file)
    monkeypatch.setattr("longtake.pipeline.weights.licence.LICENCES", {file: "cc-by-nc-4.0"})
    for model, told in {"tiny": 0, file: 1}.items():
        console = Console(file=StringIO(), width=200)
        options = RenderOptions(in_process=True)
        take = open_render(load_storyboard(str(storyboard), (f"model={model}",)), str(tmp_path / "out"), options)
        print_before(take, options, console)
        assert console.file.getvalue().count("cc-by-nc-4.0, forbids commercial use") == told


def test_benches_are_listed_and_unknown_ones_refused():
    assert "chunk_time_growth" in longtake("bench", "--list", check=True, env={**os.environ, "COLUMNS": "200"}).stdout
    assert longtake("bench", "nothing").returncode == 2
