import json
import os
import sys
import warnings
from collections import namedtuple
from pathlib import Path

import pytest

from longtake.jobs.doctor import clashes, examine, local_ray, machine, output as output_root, software
from longtake.pipeline.errors import MediaError
from tests import forked

ROOT = Path(__file__).parents[2]
Usage = namedtuple("Usage", "total used free")


def levels(findings):
    return [finding.level for finding in findings]


def only(findings):
    (finding,) = findings
    return finding


def test_this_environment_is_healthy_and_the_probe_leaves_nothing(tmp_path, capsys):
    out = tmp_path / "new" / "out"
    assert examine.run_doctor(str(out), ray=False, as_json=True)
    (line,) = capsys.readouterr().out.splitlines()
    report = json.loads(line)
    assert report["ok"]
    assert report.keys() == {"ok", "seconds", "findings"}
    checks = {finding["check"] for finding in report["findings"]}
    assert checks >= {
        "python",
        "versions",
        "imports",
        "working folder",
        "gpu",
        "cores",
        "shared memory",
        "codecs",
        "ray",
        "disk",
        "output",
    }
    assert not list(tmp_path.iterdir())


def test_the_command_exits_with_1_and_shows_the_fix_when_something_fails(tmp_path):
    (tmp_path / "file").write_text("in the way")
    command = ["-m", "longtake.jobs", "doctor", "--no-ray", "-o", tmp_path / "file" / "out"]
    answer = forked.run(*command, cwd=ROOT, env={**os.environ, "COLUMNS": "200"})
    assert answer.returncode == 1, answer.stdout + answer.stderr
    for part in ("FAIL", "NotADirectoryError", "use another -o", "codecs"):
        assert part in answer.stdout
    assert "Traceback" not in answer.stderr


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_ray_starts_and_runs_a_task():
    finding = only(local_ray.check_ray(start=True))
    assert finding.level == "ok", finding
    assert "first task after" in finding.seen


def test_a_ray_that_does_not_start_in_time_is_killed(monkeypatch):
    monkeypatch.setattr(local_ray, "_RAY_SCRIPT", "import time; time.sleep(60)")
    finding = only(local_ray.check_ray(start=True, timeout_s=0.2))
    assert finding.level == "FAIL"
    assert "no task ran within 0.2 s" in finding.seen
    assert finding.fix


def test_a_ray_that_fails_is_reported_by_its_last_line(monkeypatch):
    monkeypatch.setattr(local_ray, "_RAY_SCRIPT", "raise OSError('AF_UNIX path is too long')")
    finding = only(local_ray.check_ray(start=True))
    assert finding.level == "FAIL"
    assert "OSError: AF_UNIX path is too long" in finding.seen
    assert "TMPDIR" in finding.fix


def test_versions_out_of_range_untested_and_missing_are_distinguished(monkeypatch):
    lines = ["torch==2.10.*", "no-such-library>=1", "av>=16"]
    monkeypatch.setattr(software, "_dependencies", lambda: lines)
    monkeypatch.setattr(software, "_tested_versions", lambda: {"av": "16.0.0"})
    findings = list(software.check_versions())
    assert levels(findings) == ["FAIL", "FAIL", "warn"]
    assert "torch ==2.10.* is needed" in findings[0].seen
    assert "no-such-library is not installed" in findings[1].seen
    assert "(tested 16.0.0)" in findings[2].seen
    assert all("make setup" in finding.fix for finding in findings)


def test_torch_and_torchaudio_must_be_of_one_release(monkeypatch):
    monkeypatch.setattr(software, "_dependencies", list)
    monkeypatch.setattr(software, "version", {"torch": "2.11.0+cu130", "torchaudio": "2.10.0"}.get)
    assert levels(software.check_versions()) == ["ok", "FAIL"]
    monkeypatch.setattr(software, "version", {"torch": "2.11.0+cu130", "torchaudio": "2.11.1"}.get)
    assert levels(software.check_versions()) == ["ok"]


def test_a_library_that_does_not_load_is_named(monkeypatch):
    def broken(name):
        if name == "decord":
            raise OSError("libgomp.so.1: cannot open shared object file")

    monkeypatch.setattr(software, "import_module", broken)
    finding = only(software.check_imports())
    assert finding.level == "FAIL"
    assert finding.seen.startswith("import decord: libgomp")


def test_a_package_or_module_called_longtake_in_the_working_folder_is_found_with_its_fix(tmp_path):
    def place(name, *parts):
        path = tmp_path.joinpath(name, *parts)
        path.parent.mkdir(parents=True)
        path.touch()
        return tmp_path / name

    assert only(clashes.check_working_folder(place("clean", "film.yaml"))).level == "ok"
    for folder, hiding in (
        (place("package", "longtake", "__init__.py"), "longtake"),
        (place("module", "longtake.py"), "longtake.py"),
    ):
        finding = only(clashes.check_working_folder(folder))
        assert finding.level == "FAIL"
        assert finding.seen.startswith(f"{folder / hiding} hides the installed longtake")
        assert finding.fix == f"rename {folder / hiding}, or run longtake in another folder"


def test_the_working_folder_may_be_the_checkout_itself():
    assert only(clashes.check_working_folder(ROOT)).level == "ok"


@pytest.mark.parametrize("editable", [True, False])
def test_a_bare_folder_called_longtake_hides_an_editable_install_only(editable, tmp_path, monkeypatch):
    (tmp_path / "here" / "longtake").mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [] if editable else [str(ROOT)])
    finding = only(clashes.check_working_folder(tmp_path / "here"))
    assert finding.level == ("FAIL" if editable else "ok")


def test_no_gpu_is_fine_but_a_driver_that_torch_cannot_use_is_not(monkeypatch):
    import torch

    def unavailable():
        warnings.warn("The NVIDIA driver on your system is too old", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", unavailable)
    monkeypatch.setattr(machine, "_nvidia_driver", lambda: None)
    assert levels(machine.check_gpus()) == ["ok"]
    monkeypatch.setattr(machine, "_nvidia_driver", lambda: "470.1")
    finding = only(machine.check_gpus())
    assert finding.level == "FAIL"
    assert "470.1" in finding.seen
    assert "too old" in finding.seen
    assert "CUDA" in finding.fix


def test_a_quota_below_the_cores_is_a_warning_since_ray_does_not_see_it(monkeypatch):
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 64)
    monkeypatch.setattr(machine, "_cpu_quota", lambda: 1.5)
    finding = only(machine.check_cores())
    assert finding.level == "warn"
    assert "1.5 of 64 cores" in finding.seen
    assert "--num-cpus=1" in finding.fix


def test_the_shared_memory_of_a_bare_container_is_too_small(monkeypatch):
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: Usage(64 << 20, 0, 64 << 20))
    finding = only(machine.check_shared_memory())
    assert finding.level == "warn"
    assert "--shm-size=" in finding.fix


def test_a_missing_codec_shows_its_fix(monkeypatch):
    import longtake.pipeline.media.write

    def broken(*_, **__):
        raise MediaError("libx264 is not in this FFmpeg")

    monkeypatch.setattr(longtake.pipeline.media.write, "GopEncoder", broken)
    finding = only(software.check_codecs())
    assert (finding.level, finding.seen) == ("FAIL", "libx264 is not in this FFmpeg")
    assert "wheel" in finding.fix


@pytest.mark.parametrize(("free_gib", "level"), [(0.5, "FAIL"), (5, "warn"), (100, "ok")])
def test_free_disk_is_compared_with_an_hour_of_film(free_gib, level, monkeypatch, tmp_path):
    monkeypatch.setattr(output_root.shutil, "disk_usage", lambda _: Usage(0, 0, int(free_gib * 2**30)))
    finding = only(output_root.check_disk(str(tmp_path / "not" / "yet")))
    assert finding.level == level
    assert f"{free_gib:.1f} GiB free in {tmp_path}" in finding.seen
    assert "an hour at 1280x720" in finding.seen
    assert ("half the length" in finding.fix) == (level != "ok")


@pytest.mark.parametrize("output", ["nosuch://bucket/take", "gs://bucket/take"])
def test_an_unsupported_output_is_reported_with_the_supported_protocols(output, monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    finding = only(output_root.check_output(output))
    assert finding.level == "FAIL"
    assert "memory" in finding.fix
    assert "s3fs" in finding.fix


def test_an_output_that_loses_bytes_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(output_root.Store, "get", lambda *_: b"other bytes")
    finding = only(output_root.check_output(str(tmp_path)))
    assert finding.level == "FAIL"
    assert "were read back differently" in finding.seen
    assert not list(tmp_path.iterdir())


def test_an_output_in_memory_is_tried_without_touching_the_disk(monkeypatch):
    assert only(output_root.check_output("memory://doctor")).level == "ok"
    monkeypatch.setattr(output_root.Store, "can_put_if_absent", False)
    unsafe = only(output_root.check_output("memory://doctor"))
    assert (unsafe.level, "one render at a time" in unsafe.fix) == ("warn", True)


def test_a_check_that_raises_is_a_finding_and_the_others_still_run(monkeypatch, tmp_path):
    def broken():
        raise KeyError("surprise")

    monkeypatch.setattr(examine, "check_codecs", broken)
    findings = {finding.check: finding for finding in examine.examine(str(tmp_path), ray=False)}
    assert findings["codecs"].seen == "KeyError: 'surprise'"
    assert findings["disk"].level == "ok"
