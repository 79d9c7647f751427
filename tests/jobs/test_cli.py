import json
import os
import signal
import subprocess
import sys
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from time import monotonic, sleep

import jsonschema
import pytest
import yaml
from rich.console import Console

from longtake.actors.rendering import RenderOptions, open_render
from longtake.jobs.models.table import print_models
from longtake.jobs.take import print_before
from longtake.pipeline.journal.event_log import EventLog
from longtake.pipeline.journal.store import Store
from longtake.pipeline.models.embedded import TINY, EmbeddedModel
from longtake.pipeline.spec import STORYBOARD_TEMPLATE, load_storyboard
from longtake.pipeline.weights.load import save_model
from tests import forked

LONGTAKE = [sys.executable, "-m", "longtake.jobs"]
ROOT = Path(__file__).parents[2]
WEIGHT_FLAGS = (("--dtype", "bfloat16"), ("--quantize", "float8"), ("--quantize", "float8"))
STORYBOARD = "{model: tiny, sampling: {steps: 1}, scenes: [{prompt: a red circle bounces, duration: 2s}]}"


def longtake(*arguments, **options):
    return forked.run("-m", "longtake.jobs", *arguments, cwd=ROOT, **options)


@pytest.fixture
def storyboard(tmp_path):
    path = tmp_path / "film.yaml"
    path.write_text(STORYBOARD)
    return path


def fastest(*commands):
    """CPU seconds of each command, by turns; the fewest, since what else the machine does adds to them."""
    seconds = {command: [] for command in commands}
    for command in commands * 5:
        before = getrusage(RUSAGE_CHILDREN)
        subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
        after = getrusage(RUSAGE_CHILDREN)
        seconds[command].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return [min(seconds[command]) for command in commands]


FRAMEWORK = """
import typer
app = typer.Typer()
for number in range(20):
    app.command(f"command-{number}", help="renders a storyboard, or resumes a render")(lambda: None)
app(["--help"])
"""


def test_help_answers_within_half_a_second():
    assert "render" in longtake("--help", check=True).stdout
    ours, framework = fastest((*LONGTAKE, "--help"), (sys.executable, "-c", FRAMEWORK))
    assert ours <= max(0.5, 1.5 * framework), "half a second, or on a slow machine what the framework alone needs"


def test_what_computes_nothing_imports_neither_torch_nor_ray_nor_a_model_library():
    script = """if True:
        import sys
        from longtake.jobs.cli import main

        heavy = {"torch", "ray", "diffusers", "transformers"}
        for arguments, code in (
            (["--help"], 0),
            (["--version"], 0),
            (["render", "--help"], 0),
            (["render"], 2),
            (["render", "film.yaml", "-o", "out", "--no-such-flag"], 2),
            (["upscale", "film.mp4", "-o", "out.mp4", "--device", "tpu"], 2),
            (["batch", "batch.yaml", "-v", "-q"], 2),
            (["init", "--json-schema"], 0),
            (["bench", "--list"], 0),
            (["bench", "nothing"], 2),
            (["models"], 0),
        ):
            try:
                main(arguments)
                ended = 0
            except SystemExit as end:
                ended = end.code or 0
            assert ended == code, (arguments, ended)
            assert not heavy & sys.modules.keys(), (arguments, heavy & sys.modules.keys())
    """
    answer = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr[-2000:]


def test_the_version_is_printed():
    assert longtake("--version", check=True).stdout == f"longtake {version('longtake')}\n"


def test_the_json_schema_accepts_storyboards_and_refuses_mistakes():
    schema = json.loads(longtake("init", "--json-schema", check=True).stdout)
    good = [STORYBOARD_TEMPLATE, *(path.read_text() for path in (ROOT / "examples").glob("*.yaml"))]
    scenes = "scenes: [{prompt: a red circle, duration: 2s}]"
    good += [f"{{audio: song.wav, {scenes}}}", f"{{sampling: {{guidance: {{video: 3}}, steps: 4}}, {scenes}}}"]
    for text in good:
        jsonschema.validate(yaml.safe_load(text), schema)
    for text in ("seed: 3", f"{{sed: 3, {scenes}}}", f"{{sampling: {{solver: heun}}, {scenes}}}"):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(yaml.safe_load(text), schema)


def test_the_result_of_a_render_is_one_json_object_and_progress_goes_to_standard_error(storyboard, tmp_path, command):
    out = tmp_path / "out"
    answer = longtake(
        "render", storyboard, "-o", out, "--in-process", "--json", "--progress", "plain", "-v", check=True
    )
    result = json.loads(answer.stdout)
    assert (result["film"], result["frames"], result["rendered_chunks"]) == (str(out / "film.mp4"), 32, 2)
    assert "denoise.chunk" in answer.stderr
    wrong = command("render", storyboard, "-o", out, "--in-process", "--json", "--set", "seed=-1")
    assert json.loads(wrong.stdout)["error"] == "SpecError"
    assert json.loads(wrong.stdout)["exit_code"] == wrong.returncode == 2


def test_the_plan_is_one_json_object(storyboard, tmp_path, command):
    answer = command("render", storyboard, "-o", tmp_path / "out", "--in-process", "--dry-run", "--json", check=True)
    plan = json.loads(answer.stdout)
    assert (plan["frames"], plan["chunks"], plan["scenes"][0]["chunks"]) == (32, 2, 2)
    assert plan["expected_s"] > 0


def test_ctrl_c_says_that_the_same_command_resumes(tmp_path):
    path = tmp_path / "film.yaml"
    path.write_text("{model: tiny, scenes: [{prompt: a red circle bounces, duration: 10m}]}")
    command = ["-m", "longtake.jobs", "render", path, "-o", tmp_path / "out", "--in-process", "--progress", "json"]
    out, err, until = tmp_path / "progress", tmp_path / "errors", monotonic() + 120
    with forked.started(*command, cwd=ROOT, out=out, err=err) as child:
        while not (out.exists() and '"done": 1' in out.read_text()):
            assert child.exitcode is None, err.read_text()
            assert monotonic() < until
            sleep(0.05)
        os.kill(child.pid, signal.SIGINT)
        child.join(60)
    assert child.exitcode == 130
    assert err.read_text().splitlines()[-1:] == [
        "longtake: interrupted; run the same command again to resume (finished chunks are kept)"
    ]


def test_init_then_dry_run_shows_the_plan_and_writes_nothing(tmp_path, command):
    path, out = tmp_path / "film.yaml", tmp_path / "out"
    command("init", path, check=True)
    assert command("init", path).returncode == 2, "init never overwrites"
    answer = command("render", path, "-o", out, "--dry-run", "--set", "model=tiny", check=True)
    for part in ("480 frames", "480000 samples", "chunks  30", "MiB", "expected", "continue", "cut"):
        assert part in answer.stdout
    assert not out.exists()


def test_render_writes_the_film_the_playlist_and_the_event_log_and_resumes_where_it_ended(
    storyboard, tmp_path, command
):
    out = tmp_path / "out"
    command("render", storyboard, "-o", out, "--in-process", check=True)
    film = (out / "film.mp4").read_bytes()
    assert "#EXT-X-ENDLIST" in (out / "live" / "video.m3u8").read_text()
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events][:2] == ["road.start", "film.start"]
    assert events[-1]["event"] == "film.done"
    assert {event["chunk"] for event in events if event["event"] == "denoise.chunk"} == {0, 1}
    again = command("render", storyboard, "-o", out, "--in-process", check=True)
    assert "2 of 2 chunks are kept" in " ".join(again.stdout.split())
    refused = command("render", storyboard, "-o", out, "--in-process", "--set", "seed=3")
    assert refused.returncode == 2, "a finished film is not overwritten without --replace"
    assert "2 of its 2 chunks would be lost (seed was 0, is 3); add --replace" in " ".join(refused.stderr.split())
    assert (out / "film.mp4").read_bytes() == film
    edited = command("render", storyboard, "-o", out, "--in-process", "--set", "seed=3", "--replace", check=True)
    assert "0 of 2 chunks are kept; chunk 0: seed was 0, is 3" in " ".join(edited.stdout.split())
    assert (out / "film.mp4").read_bytes() != film


def test_the_model_its_dtype_and_its_quantization_can_be_set_by_flags(storyboard, tmp_path, command):
    pytest.importorskip("torchao")
    save_model(EmbeddedModel.untrained(TINY), f"{tmp_path}/own.safetensors")
    render = ("render", storyboard, "-o", tmp_path / "out", "--in-process", "--model", tmp_path / "own.safetensors")
    render = (*render, "--replace")
    outputs = [" ".join(command(*render, *flags, check=True).stdout.split()) for flags in WEIGHT_FLAGS]
    assert "0 of 2 chunks are kept" in outputs[1], "other bits"
    assert "2 of 2 chunks are kept" in outputs[2]
    wrong = command(*render, "--dtype", "int8")
    assert (wrong.returncode, "--dtype is int8; use float32" in wrong.stderr) == (2, True)


def test_fresh_starts_next_to_the_old_take_and_never_over_it(storyboard, tmp_path, command):
    out = tmp_path / "out"
    for _ in range(3):
        command("render", storyboard, "-o", out, "--in-process", "--fresh", check=True)
    assert (tmp_path / "out-2" / "film.mp4").read_bytes() == (tmp_path / "out-3" / "film.mp4").read_bytes()


def test_a_foreign_film_is_never_overwritten(storyboard, tmp_path, command):
    (tmp_path / "film.mp4").write_bytes(b"precious")
    answer = command("render", storyboard, "-o", tmp_path, "--in-process")
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
def test_errors_are_one_message_with_a_documented_exit_code(storyboard, tmp_path, override, code, message, command):
    answer = command("render", storyboard, "-o", tmp_path / "out", "--in-process", "--set", override)
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


def test_models_are_listed_with_licence_and_memory_and_full_names_at_any_width(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    print_models(as_json=True)
    rows = json.loads(capsys.readouterr().out)["models"]
    by_name = {row["name"]: row for row in rows}
    assert by_name["tiny"]["rollout"] == "causal"
    wan = by_name["Wan-AI/Wan2.1-T2V-14B-Diffusers"]
    assert wan["parts"]["denoiser"] == 14_288_491_584
    assert wan["parameters"] == sum(wan["parts"].values()) > 20e9, "the text encoder and the codecs count, too"
    assert "forbids commercial use" in by_name["tianweiy/CausVid"]["terms"]
    assert by_name["tiny"]["terms"] is None
    assert all(row["memory"][0]["gib"] > 0 and row["weights_gib"] > 0 for row in rows)
    print_models(as_json=False)
    printed = capsys.readouterr().out
    assert printed.count("forbids commercial use") == 1, "once, plainly"
    assert set(by_name) <= {line.removesuffix(" (convert first)") for line in printed.splitlines()}


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
