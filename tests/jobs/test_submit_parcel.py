"""What `longtake submit` uploads, and its errors before that; the rest is in test_submit.py."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import longtake
from longtake.jobs.submit import parcel
from longtake.jobs.submit.cluster import connect, next_attempt
from longtake.jobs.submit.code import EXCLUDES, gather_code
from longtake.jobs.submit.parcel import SubmitOptions, kind_of, pack, place_of
from longtake.pipeline.errors import LongtakeError, SpecError

ROOT = Path(__file__).parents[2]
STORYBOARD = "{title: Red, model: tiny, scenes: [{prompt: a red circle, duration: 2s}]}"
HERE = "http://127.0.0.1:8265"


def _pack(text=STORYBOARD, name="film.yaml", output="s3://films/one", **options):
    return pack(name, text, output, SubmitOptions(HERE, output, **options))


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("film.yaml", STORYBOARD, "storyboard"),
        ("film", STORYBOARD, "storyboard"),
        ("film.yaml", "scenes: [", "storyboard"),
        ("films.yaml", "takes: [{storyboard: film.yaml}]", "manifest"),
        ("films.yaml", "- storyboard: film.yaml", "manifest"),
        ("films.jsonl", "", "manifest"),
        ("s3://films/films.csv", "storyboard\nfilm.yaml", "manifest"),
    ],
)
def test_a_manifest_and_a_storyboard_are_distinguished_by_content(name, text, kind):
    assert kind_of(name, text) == kind


def test_a_storyboard_travels_under_a_fixed_name_with_the_command_of_a_local_render():
    packed = _pack(overrides=("seed=3",), flags=("--ranks", "2"))
    assert packed.files == {"storyboard.yaml": STORYBOARD.encode()}
    assert packed.title == "Red"
    wanted = "python -m longtake.jobs.render storyboard.yaml -o s3://films/one --set seed=3 --ranks 2"
    assert " ".join(packed.command) == wanted


def test_a_manifest_travels_with_the_storyboards_that_it_names(tmp_path):
    (tmp_path / "boards").mkdir()
    for name in ("boards/one.yaml", "two.yaml", "other.yaml"):
        (tmp_path / name).write_text(STORYBOARD)
    manifest = "takes: [{storyboard: boards/one.yaml}, {storyboard: two.yaml}, {storyboard: 's3://a/b.yaml'}]"
    (tmp_path / "films.yaml").write_text(manifest)
    packed = _pack(manifest, str(tmp_path / "films.yaml"))
    assert set(packed.files) == {"manifest.yaml", "boards/one.yaml", "two.yaml"}
    assert packed.command[:4] == ("python", "-m", "longtake.jobs.batch", "manifest.yaml")


def test_a_storyboard_that_is_missing_or_cannot_travel_is_reported_before_anything_is_sent(tmp_path):
    for name, message in {"gone.yaml": "does not exist; write it", "../up.yaml": "cannot travel"}.items():
        manifest = json.dumps({"storyboard": name})
        (tmp_path / "films.jsonl").write_text(manifest)
        with pytest.raises(SpecError, match=message):
            _pack(manifest, str(tmp_path / "films.jsonl"))


def test_a_job_is_named_by_text_overrides_and_output_and_by_nothing_else():
    first = _pack().name
    assert _pack(name="renamed.yaml").name == _pack(flags=("--ranks", "2")).name == first
    others = [_pack(STORYBOARD + " "), _pack(overrides=("seed=1",)), _pack(output="s3://films/two")]
    assert len({first, *(other.name for other in others)}) == 4


def test_attempts_are_counted_and_a_second_at_once_is_refused():
    assert next_attempt("longtake-ab", {}, HERE) == "longtake-ab-a1"
    ended = {None: False, "raysubmit_x": False, "longtake-ab-a1": True, "longtake-ab-a9": True, "longtake-cd-a3": False}
    assert next_attempt("longtake-ab", ended, HERE) == "longtake-ab-a10"
    with pytest.raises(SpecError, match=r"longtake-ab-a2 .*ray job logs --follow --address http"):
        next_attempt("longtake-ab", {"longtake-ab-a1": True, "longtake-ab-a2": False}, HERE)


def test_an_output_is_absolute_or_a_url_and_never_memory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert place_of("out/film") == str(tmp_path / "out/film")
    assert place_of(f"file://{tmp_path}//out/./film/") == str(tmp_path / "out/film")
    assert place_of("s3://films/one") == place_of("s3a://films//one/") == "s3://films/one"
    with pytest.raises(SpecError, match="memory belongs to one process"):
        place_of("memory://film")


def test_all_mistakes_of_a_storyboard_are_reported_before_anything_is_sent():
    with pytest.raises(SpecError, match="seed is -1"):
        _pack(overrides=("seed=-1",))


def test_files_next_to_a_storyboard_travel_and_the_cluster_sees_all_others_itself(tmp_path):
    (tmp_path / "sounds").mkdir()
    (tmp_path / "sounds/song.wav").write_bytes(b"song")
    name, elsewhere = str(tmp_path / "film.yaml"), "continue_from=s3://films/before.mp4"
    packed = _pack(name=name, overrides=("audio=sounds/song.wav", elsewhere))
    assert packed.files == {"storyboard.yaml": STORYBOARD.encode(), "sounds/song.wav": b"song"}
    for absolute in ("/shared/song.wav", "file:/shared/song.wav", "file:///shared/song.wav"):
        assert set(_pack(name=name, overrides=(f"audio={absolute}", elsewhere)).files) == {"storyboard.yaml"}


def test_files_of_the_storyboards_of_a_manifest_travel_too(tmp_path):
    (tmp_path / "boards").mkdir()
    for picture in ("still.png", "boards/still.png"):
        (tmp_path / picture).write_bytes(picture.encode())
    board = STORYBOARD.replace("duration: 2s", "duration: 2s, image: still.png")
    (tmp_path / "boards/one.yaml").write_text(board)
    (tmp_path / "boards/broken.yaml").write_text("scenes: [")
    manifest = f"takes: [{{storyboard: boards/one.yaml}}, {{storyboard: boards/broken.yaml}}, {{storyboard: {board}}}]"
    (tmp_path / "films.yaml").write_text(manifest)
    files = _pack(manifest, str(tmp_path / "films.yaml")).files
    assert set(files) == {"manifest.yaml", "boards/one.yaml", "boards/broken.yaml", "boards/still.png", "still.png"}
    assert files["boards/still.png"] == b"boards/still.png"


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        ("gone.wav", "gone.wav, which does not exist"),
        ("../secret.wav", "not below .* and cannot travel"),
        ("link.wav", "not below .* and cannot travel"),
        ("simplecache::file:/etc/passwd", "chained by :: are not opened"),
        ("local:/etc/passwd", "--allow-scheme local permits local as well"),
        ("data:text/plain,hi", "--allow-scheme data permits data as well"),
        ("big.wav", "travel with a job"),
    ],
)
def test_a_file_that_cannot_travel_is_refused_before_anything_is_sent(audio, message, tmp_path, monkeypatch):
    (tmp_path / "films").mkdir()
    (tmp_path / "secret.wav").write_bytes(b"secret")
    (tmp_path / "films/link.wav").symlink_to(tmp_path / "secret.wav")
    (tmp_path / "films/big.wav").write_bytes(b"1234")
    if audio == "big.wav":
        monkeypatch.setattr(parcel, "MOST_BYTES", 3)
    with pytest.raises(SpecError, match=message):
        _pack(name=str(tmp_path / "films/film.yaml"), overrides=(f"audio={audio}",))


def test_a_manifest_cannot_have_files_of_this_machine_sent_to_the_cluster(tmp_path):
    for named in ("file:/etc/hostname", "/etc/hostname", "local:/etc/hostname", "simplecache::file:/etc/hostname"):
        manifest = json.dumps({"storyboard": named})
        (tmp_path / "films.jsonl").write_text(manifest)
        assert set(_pack(manifest, str(tmp_path / "films.jsonl")).files) == {"manifest.jsonl"}


def test_an_address_that_is_no_url_is_refused():
    with pytest.raises(SpecError, match=r"such as http://127\.0\.0\.1:8265"):
        connect("auto")


def test_a_cluster_that_does_not_answer_is_reported_with_the_fix(tmp_path):
    (tmp_path / "film.yaml").write_text(STORYBOARD)
    command = [sys.executable, "-m", "longtake.jobs", "submit", str(tmp_path / "film.yaml"), "-o", "s3://films/one"]
    said = subprocess.run(
        [*command, "--address", "http://127.0.0.1:1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert said.returncode == 1
    assert "no answer from http://127.0.0.1:1; start the cluster" in said.stderr


def test_a_token_that_is_not_where_it_should_be_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "gone"))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    with pytest.raises(LongtakeError, match="which is not a file; `ray get-auth-token` prints a token"):
        connect(HERE)


def packed_by_ray(code, target):
    """What a cluster unpacks of a folder in `py_modules`."""
    from ray._private.runtime_env.packaging import create_package

    create_package(
        str(code), target / "code.zip", include_gitignore=True, include_parent_dir=True, excludes=list(EXCLUDES)
    )
    with zipfile.ZipFile(target / "code.zip") as package:
        package.extractall(target / "unpacked")
    return target / "unpacked"


def sources(package):
    """The files of an installed package by their names in it; `package_data` of pyproject.toml, and Python."""
    kinds = {".py", ".css", ".html", ".js", ".safetensors", ".yaml", ".typed"}
    found = {Path(place) / name for place in package.__path__ for name in ("pipeline", "actors", "jobs")}
    files = [path for folder in found if folder.is_dir() for path in folder.rglob("*")]
    parts = {str(path.relative_to(ROOT)): path for path in files if path.suffix in kinds}
    return {**parts, **{path.name: path for path in Path(package.__path__[0]).glob("*") if path.is_file()}}


def test_the_code_that_travels_is_complete(tmp_path):
    unpacked = packed_by_ray(gather_code(tmp_path), tmp_path)
    wanted = sources(longtake)
    assert len(wanted) > 200
    missing = [name for name in wanted if not (unpacked / "longtake" / name).is_file()]
    assert not missing
    assert [path.name for path in unpacked.iterdir()] == ["longtake"]
    assert not [path for path in unpacked.rglob("*") if path.name.endswith("cache")]
    assert all((unpacked / "longtake" / name).read_bytes() == path.read_bytes() for name, path in wanted.items())


def test_the_code_that_travels_is_imported_in_place_of_the_one_installed_on_a_node(tmp_path):
    unpacked = packed_by_ray(gather_code(tmp_path), tmp_path)
    (tmp_path / "cwd").mkdir()
    script = """if True:
        import sys
        from longtake.jobs.render import command, run
        from longtake.pipeline.weights.load import load_model
        assert load_model("sounding-shapes").trained
        print(*sorted({module.__file__ for name, module in sys.modules.items()
                       if name.partition(".")[0] == "longtake" and module.__file__}), sep="\\n")
    """
    answer = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path / "cwd",
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    imported = answer.stdout.splitlines()
    assert len(imported) > 50
    assert all(Path(file).is_relative_to(unpacked) for file in imported)


def test_what_travels_by_the_working_folder_alone_is_code_and_storyboards(tmp_path):
    from ray._private.runtime_env.packaging import create_package

    create_package(str(ROOT), tmp_path / "package.zip", include_gitignore=True)
    with zipfile.ZipFile(tmp_path / "package.zip") as package:
        files = [info for info in package.infolist() if not info.is_dir()]
    folders = {info.filename.split("/")[0] for info in files}
    assert folders >= {"longtake", "jobs", "actors", "pipeline", "examples"}
    assert not folders & {".git", ".venv", "deploy", "docs", "out", "tests"}
    ours = [info for info in files if not info.filename.endswith((".safetensors", "/hls.mjs"))]  # that is a library
    assert sum(info.file_size for info in ours) < 2.5 * 2**20
    assert sum(info.file_size for info in files) < 24 * 2**20


def test_a_password_in_the_output_is_not_sent_along():
    with pytest.raises(SpecError, match="its password would be shown with the job"):
        place_of("s3://key:secret@bucket/film")
