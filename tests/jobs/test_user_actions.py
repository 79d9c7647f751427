"""What users do, and what they do wrong: each ends with its documented exit code and with one message, which names the
thing and the fix. None ends with a stack trace."""

import shlex
import socket
from pathlib import Path

import pytest
import torch

from longtake.jobs.cli import main

ROOT = Path(__file__).parents[2]
BOARD = "{model: tiny, sampling: {steps: 1}, scenes: [{prompt: a red circle bounces, duration: 1s}]}"

DONE, FAILED, WRONG = 0, 1, 2

# A command line and what it ends with. Names in braces are those of `places`.
RENDER = {
    "render {missing} -o {out}": (WRONG, "missing does not exist; `longtake init"),
    "render {folder} -o {out}": (WRONG, "folder cannot be read"),
    "render {empty} -o {out}": (WRONG, "empty holds no keys; it needs scenes"),
    "render {junk} -o {out}": (WRONG, "junk cannot be read"),
    "render {bad_yaml} -o {out}": (WRONG, "is not valid YAML: line 2"),
    "render {unknown_key} -o {out}": (WRONG, "scenes[0].durration", "did you mean duration?"),
    "render nosuch://film.yaml -o {out}": (WRONG, "nosuch://film.yaml cannot be read"),
    "render one::two -o {out}": (WRONG, "one::two"),
    "render '{missing}\nfilm' -o {out}": (WRONG, "does not exist"),
    "render {board} -o {out}.mp4": (WRONG, "it names a folder", "--set output.film=out.mp4"),
    "render {board} -o {film}": (WRONG, "it names a folder", "--set output.film=film.mp4"),
    "render {board} -o ''": (WRONG, "-o is empty; name a folder"),
    "render http://127.0.0.1:1/film.yaml -o {out}": (WRONG, "has no such file, or does not answer"),
    "render {board} -o {junk}": (WRONG, "junk, a file; name a folder"),
    "render {board} -o {junk}/below/it": (WRONG, "which is a file; name a folder"),
    "render {board} -o /proc/longtake": (WRONG, "/proc/longtake, which cannot be written"),
    "render {board} -o nosuch://films": (WRONG, "'nosuch://films' cannot be opened"),
    "render {board} -o http://127.0.0.1:1/films": (WRONG, "http://127.0.0.1:1/films, which cannot be written"),
    "render {board} -o memory://films": (WRONG, "memory belongs to one process: use a folder, or add --in-process"),
    "render {board} -o {foreign}": (WRONG, "film.mp4 was not written by longtake; use another -o"),
    "render {board} -o {out} --set seed=-1": (WRONG, "seed is -1; use a whole number from 0"),
    "render {board} -o {out} --set seed": (WRONG, "--set seed: write key=value"),
    "render {board} -o {out} --set scenes[7].prompt=x": (WRONG, "'7' is not one of 1 items"),
    "render {board} -o {out} --set video.width=60": (WRONG, "video.width is 60", "use 48 or 64"),
    "render {board} -o {out} --set scenes[0].image={missing}": (WRONG, "scenes[0].image", "missing"),
    "render {board} -o {out} --set scenes[0].image={folder}": (WRONG, "scenes[0].image", "folder"),
    "render {board} -o {out} --set scenes[0].image={junk}": (WRONG, "scenes[0].image", "junk"),
    "render {board} -o {out} --set audio={empty}": (WRONG, "audio.file", "empty"),
    "render {board} -o {out} --set continue_from={junk}": (WRONG, "continue_from", "junk"),
    "render {board} -o {out} --set model=unknown": (FAILED, "model is 'unknown'; use sounding-shapes or tiny"),
    "render {board} -o {out} --model {junk}": (FAILED, "junk"),
    "render {board} -o {out} --model {weights}": (FAILED, "weights.safetensors"),
    "render {board} -o {out} --device tpu": (WRONG, "--device", "'tpu' is not one of 'auto'"),
    "render {board} -o {out} --device cuda": (WRONG, "finds no GPU in this process; use --device cpu"),
    "render {board} -o {out} --dtype int8": (WRONG, "--dtype is int8; use float32"),
    "render {board} -o {out} --gangs 2": (WRONG, "--gangs is 2", "add parallel_scenes: true"),
    "render {board} -o {out} --ranks 3 --ulysses 2": (WRONG, "--ranks is 3", "leave --ranks out"),
    "render {board} -o {out} --ranks 2 --in-process": (WRONG, "--in-process is one rank in one gang, not 2 ranks"),
    "render {board} -o {out} --in-process --address auto": (WRONG, "--address is auto, but --in-process"),
    "render {board} -o {out} --fresh --replace": (WRONG, "--fresh keeps the film", "leave one of the two out"),
    "render {board} -o {out} --threads 0": (WRONG, "'--threads'", "greater than or equal to 1"),
    "render {board} -o {out} --threads 100000": (WRONG, "--threads is 100000", "cores; use at most"),
    "render {board} -o {out} --ranks 1000": (FAILED, "1000 processes on this machine", "or join a cluster"),
    "render {board} -o {out} --no-such-flag": (WRONG, "No such option"),
    "render {board}": (WRONG, "Missing option", "--output"),
    "render {board} -o {take} --in-process --set seed=3": (WRONG, "1 of its 1 chunks would be lost", "--replace"),
    "render {large} -o {out}": (WRONG, "video is 128x128; sounding-shapes was trained on 64x64", "upscale: 2", "--any"),
}
OTHERS = {
    "render {board} -o {take} --in-process": (DONE, "is finished: 1 of 1 chunks are kept, nothing to render"),
    "status {take}": (DONE, "The film is complete: 1 chunks"),
    "status {take} --json": (DONE, '"state":"done"'),
    "status {missing}": (WRONG, "holds no take; render one with longtake render"),
    "status {folder}": (WRONG, "holds no take"),
    "status {film}": (WRONG, "film.mp4 is a file, not the output folder of a render; use", "take"),
    "status {junk}": (WRONG, "junk is a file, not the output folder of a render"),
    "status {junk}/below": (WRONG, "holds no take"),
    "status {damaged}": (WRONG, "take.json is damaged; render again to rewrite it"),
    "status nosuch://films": (WRONG, "'nosuch://films' cannot be opened"),
    "status one::two": (WRONG, "one::two"),
    "status http://127.0.0.1:1/films": (WRONG, "holds no take"),
    "status": (WRONG, "Missing argument 'OUT'"),
    "watch {film} --no-open": (WRONG, "film.mp4 is a file, not the output folder"),
    "watch {board} --no-open": (WRONG, "is a file, not the output folder"),
    "watch nosuch://films --no-open": (WRONG, "cannot be opened"),
    "watch {take} --no-open --port 99999": (WRONG, "--port"),
    "watch {take} --no-open --port {busy_port}": (WRONG, "cannot be used", "use --port 0"),
    "watch": (WRONG, "Missing argument 'OUT'"),
    "clean {take}": (DONE, "0 files, 0 bytes deleted"),
    "clean {take} --dry-run": (DONE, "would be deleted"),
    "clean {missing}": (WRONG, "holds no take"),
    "clean {film}": (WRONG, "is a file, not the output folder"),
    "clean {folder}": (WRONG, "holds no take"),
    "clean nosuch://films": (WRONG, "cannot be opened"),
    "cancel {take}": (DONE, "No render owns"),
    "cancel {film}": (WRONG, "is a file, not the output folder"),
    "cancel nosuch://films": (WRONG, "cannot be opened"),
    "cancel {take} --wait -1": (WRONG, "--wait"),
    "init {board}": (WRONG, "already exists; name another file"),
    "init {junk}/below": (WRONG, "cannot be written"),
    "init {folder}": (WRONG, "already exists"),
    "init /proc/film.yaml": (WRONG, "cannot be written"),
    "inspect {missing}.mp4": (WRONG, "missing.mp4"),
    "inspect {missing}": (WRONG, "holds no take; name an output root"),
    "inspect {folder}": (WRONG, "holds no take"),
    "inspect {junk}.mp4": (FAILED, "junk.mp4"),
    "inspect {empty}.mp4": (WRONG, "empty.mp4"),
    "inspect {unfinished}": (WRONG, "has no film.mp4 yet"),
    "inspect nosuch://film.mp4": (WRONG, "nosuch://film.mp4"),
    "inspect {film} --chunk soon": (WRONG, "chunk", "soon"),
    "inspect {film} --against {missing}.mp4": (WRONG, "missing.mp4"),
    "inspect": (WRONG, "Missing argument"),
    "batch {missing}.yaml -o {out}": (WRONG, "missing.yaml does not exist"),
    "batch {folder}.yaml -o {out}": (WRONG, "folder.yaml cannot be read"),
    "batch {empty}.yaml -o {out}": (WRONG, "empty"),
    "batch {junk}.yaml -o {out}": (WRONG, "junk.yaml cannot be read"),
    "batch {bad_yaml}.yaml -o {out}": (WRONG, "is not valid YAML"),
    "batch {board} -o {out}": (WRONG, "unknown file name extension; use .yaml"),
    "batch {board}.yaml -o {out}": (WRONG, "takes"),
    "batch {takes_typo}.yaml -o {out}": (WRONG, "storybord", "did you mean storyboard?"),
    "batch {takes_lost}.yaml -o {out}": (WRONG, "lost.yaml", "does not exist"),
    "batch {takes}.yaml -o {junk}": (WRONG, "junk, a file; name a folder"),
    "batch {takes}.yaml -o /proc/longtake": (WRONG, "which cannot be written"),
    "batch {takes}.yaml -o {out} --device tpu": (WRONG, "--device", "'tpu' is not one of 'auto'"),
    "batch {takes}.yaml -o {out} --device cuda": (WRONG, "finds no GPU"),
    "batch {takes}.yaml -o {out} --dtype int4": (WRONG, "--dtype is int4; use float32"),
    "batch {takes}.yaml -o {out} --numerics wild": (WRONG, "--numerics is wild; use exact or relaxed"),
    "batch {takes}.yaml -o {out} --threads 100000": (WRONG, "--threads is 100000", "cores; use at most"),
    "batch {takes}.yaml -o {out} --gangs 0": (WRONG, "--gangs"),
    "batch {takes}.yaml -o {out} --set seed=-1": (WRONG, "seed is -1"),
    "batch {takes}.yaml -o {root} --set seed=3": (WRONG, "take: ", "1 of its 1 chunks would be lost", "--replace"),
    "submit {board} -o {out}": (WRONG, "Missing option", "--address"),
    "submit {missing} -o {out} --address http://127.0.0.1:1": (WRONG, "missing does not exist"),
    "submit {junk} -o {out} --address http://127.0.0.1:1": (WRONG, "junk cannot be read"),
    "submit {unknown_key} -o {out} --address http://127.0.0.1:1": (WRONG, "did you mean duration?"),
    "submit {board} -o memory://x --address http://127.0.0.1:1": (WRONG, "memory belongs to one process"),
    "submit {board} -o {out} --address http://127.0.0.1:1": (FAILED, "no answer from http://127.0.0.1:1; start"),
    "submit {board} -o {out} --address nonsense": (WRONG, "--address is nonsense; use the URL"),
    "submit {takes_lost}.yaml -o {out} --address http://127.0.0.1:1": (WRONG, "lost.yaml"),
    "upscale {missing}.mp4 -o {out}.mp4": (WRONG, "missing.mp4"),
    "upscale {folder} -o {out}.mp4": (WRONG, "folder"),
    "upscale {junk}.mp4 -o {out}.mp4": (FAILED, "junk.mp4"),
    "upscale {empty}.mp4 -o {out}.mp4": (WRONG, "empty.mp4"),
    "upscale nosuch://film.mp4 -o {out}.mp4": (WRONG, "nosuch"),
    "upscale {film} -o {folder}": (WRONG, "names no file; use a path such as out/film.mp4"),
    "upscale {film} -o {film}": (WRONG, "the footage itself; use another path"),
    "upscale {film} -o {foreign}/film.mp4": (WRONG, "was not written by longtake; use another -o"),
    "upscale {film} -o {upscaled} --scale 4 --in-process": (
        WRONG,
        "would be made again (scale was 2, is 4); add --fresh",
    ),
    "upscale {film} -o {out}.txt": (WRONG, "h264 is written to .mp4, .mov, .mkv; end it so"),
    "upscale {film} -o {out}.mp4 --codec prores": (WRONG, "prores is written to .mov, .mkv; end it so"),
    "upscale {film} -o {junk}/below.mp4": (WRONG, "which is a file"),
    "upscale {film} -o /proc/film.mp4": (WRONG, "cannot be written"),
    "upscale {film} -o nosuch://film.mp4": (WRONG, "cannot be opened"),
    "upscale {film} -o {out}.mp4 --scale 3": (WRONG, "--scale"),
    "upscale {film} -o {out}.mp4 --codec vp9": (WRONG, "--codec"),
    "upscale {film} -o {out}.mp4 --continuity smooth": (WRONG, "use exact, handoff, or warmup=N"),
    "upscale {film} -o {out}.mp4 --start soon": (WRONG, "--start is 'soon'"),
    "upscale {film} -o {out}.mp4 --start 1h": (WRONG, "holds no frame"),
    "upscale {film} -o {out}.mp4 --in-process --workers 2": (WRONG, "leave out --in-process or --workers"),
    "upscale {film} -o {out}.mp4 --in-process --address auto": (WRONG, "--address is auto"),
    "upscale {film} -o {out}.mp4 --upscaler {missing}.safetensors": (FAILED, "missing.safetensors"),
    "models --jsn": (WRONG, "No such option"),
    "models more": (WRONG, "unexpected extra argument"),
    "convert {missing}.pt {out}.safetensors": (WRONG, "missing.pt"),
    "convert {junk} {out}.safetensors": (FAILED, "junk"),
    "convert {empty} {out}.safetensors": (FAILED, "empty"),
    "convert {folder} {out}.safetensors": (FAILED, "folder"),
    "convert {film} {out}.safetensors": (FAILED, "film.mp4"),
    "convert {junk} {out}.safetensors --dtype int8": (WRONG, "--dtype is int8"),
    "convert {junk} {out}.safetensors --variant v9": (WRONG, "--variant is v9"),
    "convert {junk} {out}.safetensors --recipe unknown": (WRONG, "--recipe is unknown; use"),
    "convert {weights} {out}-made.safetensors --progress json": (FAILED, '"phase": "converting', "fetch it again"),
    "convert {junk}": (WRONG, "Missing argument 'OUT'"),
    "doctor --no-ray -o /proc/longtake": (FAILED, "/proc/longtake", "fix"),
    "doctor --no-such-flag": (WRONG, "No such option"),
    "train codec --config {missing} -o {out}": (WRONG, "missing"),
    "train codec --config {folder} -o {out}": (WRONG, "folder"),
    "train codec --config {junk} -o {out}": (WRONG, "junk"),
    "train codec --config {empty} -o {out}": (WRONG, "empty"),
    "train codec --config {board} -o {out}": (WRONG, "not a known key"),
    "train painter --config {train} -o {out}": (WRONG, "painter"),
    "train codec --config {train} -o s3://runs": (WRONG, "use a folder that they share"),
    "train codec --config {train} -o {junk}/below": (WRONG, "which is a file"),
    "train codec --config {train} -o /proc/longtake": (WRONG, "cannot be written"),
    "train codec -o {out}": (WRONG, "Missing option", "--config"),
    "bench nothing": (WRONG, "nothing"),
    "bench resume --quick --smoke": (WRONG, "two sizes of a bench; leave one of them out"),
    "bench resume --repeat 0": (WRONG, "--repeat"),
    "bench resume --ranks 1": (WRONG, "--ranks"),
    "nothing": (WRONG, "No such command 'nothing'"),
}


def ended(capsys, *words):
    """The exit code of a command line, and all that it printed in one line."""
    capsys.readouterr()
    try:
        main(list(words))
    except SystemExit as end:
        code = end.code
    else:
        code = 0
    printed = capsys.readouterr()
    return code or 0, " ".join((printed.out + printed.err).replace("│", " ").split())


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    root = tmp_path_factory.mktemp("user")
    texts = {
        "board": BOARD,
        "bad_yaml": "scenes:\n  - {prompt: a red",
        "unknown_key": "{model: tiny, scenes: [{prompt: a red circle, durration: 1s}]}",
        "large": "{video: {width: 128, height: 128}, scenes: [{prompt: a red circle rests, duration: 1s}]}",
        "empty": "",
        "empty.mp4": "",
        "board.yaml": BOARD,
        "empty.yaml": "",
        "bad_yaml.yaml": "takes:\n  - {prompt: a red",
        "takes.yaml": "takes: [{storyboard: board, id: take}]",
        "takes_typo.yaml": "takes: [{storybord: board}]",
        "takes_lost.yaml": "takes: [{storyboard: lost.yaml}]",
    }
    for name, text in texts.items():
        (root / name).write_text(text)
    junk = bytes(range(256)) * 64
    for name in ("junk", "junk.mp4", "junk.yaml", "weights.safetensors"):
        (root / name).write_bytes(junk)
    for name in ("folder", "folder.yaml", "foreign", "damaged/journal", "root"):
        (root / name).mkdir(parents=True)
    (root / "foreign" / "film.mp4").write_bytes(junk)
    (root / "damaged" / "journal" / "take.json").write_text("{")
    for out in ("take", "unfinished", "root/take"):
        with pytest.raises(SystemExit) as end:
            main(["render", str(root / "board"), "-o", str(root / out), "--in-process"])
        assert not end.value.code
    (root / "unfinished" / "film.mp4").unlink()
    upscaler = ["--upscaler", "tiny-upscaler", "--in-process"]
    with pytest.raises(SystemExit) as end:
        main(["upscale", str(root / "take" / "film.mp4"), "-o", str(root / "upscaled.mp4"), *upscaler])
    assert not end.value.code
    names = [*texts, "junk", "folder", "foreign", "damaged", "root", "take", "unfinished", "missing"]
    names += ["takes", "takes_typo", "takes_lost"]
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        yield {
            **{name: root / name for name in names},
            "film": root / "take" / "film.mp4",
            "upscaled": root / "upscaled.mp4",
            "weights": root / "weights.safetensors",
            "train": ROOT / "configs" / "cpu" / "codec.yaml",
            "busy_port": busy.getsockname()[1],
        }


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """No cluster, credentials or wide terminal of this machine, nor the cluster of other tests in this process."""
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("TERMINAL_WIDTH", "400")
    monkeypatch.setattr("longtake.jobs.watch.server.WatchServer.serve_forever", lambda _: pytest.fail("it serves"))


def check(capsys, places, tmp_path, line, expected):
    code, *words = expected
    if "--device cuda" in line and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    command = shlex.split(line.format(**places, out=tmp_path / "out"))
    found, printed = ended(capsys, *command)
    assert found == code, printed
    assert all(word in printed for word in words), printed
    assert "Traceback" not in printed
    if not line.startswith("batch"):  # whose ledger may be there before its films are looked at
        assert not (tmp_path / "out").exists(), "nothing is written"


@pytest.mark.parametrize("line", [*RENDER, *OTHERS])
def test_each_action_ends_with_its_code_and_one_message(capsys, places, tmp_path, line):
    check(capsys, places, tmp_path, line, {**RENDER, **OTHERS}[line])


@pytest.mark.parametrize("line", RENDER)
def test_a_dry_run_refuses_what_the_run_refuses(capsys, places, tmp_path, line):
    check(capsys, places, tmp_path, f"{line} --dry-run", RENDER[line])


def test_a_store_without_credentials_is_named(capsys, places):
    pytest.importorskip("s3fs")
    for command in (["render", str(places["board"]), "-o"], ["status"]):
        code, printed = ended(capsys, *command, "s3://longtake-films/one")
        assert (code, "s3://longtake-films/one" in printed, "credentials" in printed) == (WRONG, True, True), printed


def test_there_are_at_least_sixty_actions_and_ten_mistakes_for_each_command_that_takes_arguments():
    lines = [*RENDER, *OTHERS]
    assert len(lines) >= 60
    counts = {
        name: sum(line.split()[0] == name for line in lines) for name in ("render", "upscale", "inspect", "batch")
    }
    assert min(counts.values()) >= 10, counts
