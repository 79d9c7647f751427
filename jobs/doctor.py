"""`longtake doctor`: tries what a render needs on this machine, and says the cure for what does not work.

Libraries with native parts are imported by the check that needs them, so that a broken one is a finding, not the end.
"""

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from time import perf_counter
from typing import Literal

import fsspec
import psutil
from packaging.requirements import Requirement
from packaging.version import Version
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.journal.store import Store

ROOT = Path(__file__).parents[1]
RAY_START_S = 90.0
REINSTALL = "rm .venv/.ready && make setup"

Level = Literal["ok", "warn", "FAIL"]
_COLOURS: dict[Level, str] = {"ok": "green", "warn": "yellow", "FAIL": "red"}


@dataclass(frozen=True)
class Finding:
    """One thing that was tried: what was seen, and how to cure it unless the level is ok."""

    check: str
    level: Level
    seen: str
    cure: str = ""


@dataclass(frozen=True)
class HourOfFilm:
    """Bytes that an output root needs for an hour of film, so that a full disk is seen before it is full.

    Args:
        bits_per_pixel: of H.264 at our quality: 0.3 holds most pictures, noise takes 7 (measured at 64x64).
    """

    width: int
    height: int
    fps: int
    sample_rate: int
    channels: int
    bits_per_pixel: float

    def __str__(self) -> str:
        return f"an hour at {self.width}x{self.height} and {self.fps} fps"

    @property
    def num_bytes(self) -> int:
        """Packets four times (journal, playlist, film, the film being put together), float32 PCM once."""
        video = self.width * self.height * self.fps * self.bits_per_pixel / 8
        return int(3600 * (4 * video + 4 * self.sample_rate * self.channels))


SMALL_HOUR = HourOfFilm(64, 64, 16, 16_000, 1, bits_per_pixel=7)
LARGE_HOUR = HourOfFilm(1280, 720, 24, 48_000, 2, bits_per_pixel=0.3)


def run_doctor(output: str, *, ray: bool, as_json: bool) -> bool:
    """Print what was found, and whether nothing failed.

    Args:
        output: the output root to try; nothing is left in it.
        ray: also start a local Ray cluster and run one task on it, which takes 5 to 10 seconds.
    """
    started = perf_counter()
    findings = list(examine(output, ray=ray))
    healthy = all(finding.level != "FAIL" for finding in findings)
    if as_json:
        seconds = round(perf_counter() - started, 2)
        print(json.dumps({"ok": healthy, "seconds": seconds, "findings": [asdict(finding) for finding in findings]}))
    else:
        Console().print(_table(findings))
    return healthy


def examine(output: str, *, ray: bool) -> Iterator[Finding]:
    """Every check's findings; a check that breaks is itself a finding."""
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "python": check_python,
        "versions": check_versions,
        "imports": check_imports,
        "gpu": check_gpus,
        "cores": check_cores,
        "shared memory": check_shared_memory,
        "codecs": check_codecs,
        "ray": lambda: check_ray(start=ray),
        "output": lambda: check_output(output),
        "disk": lambda: check_disk(output),
    }
    for name, check in checks.items():
        try:
            yield from check()
        except Exception as error:  # noqa: BLE001  a broken library may raise anything, and the next check still counts
            yield Finding(name, "FAIL", f"{type(error).__name__}: {error}", f"if {REINSTALL} does not help, report it")


def check_python() -> Iterator[Finding]:
    """The interpreter and the system that the dependencies are locked for."""
    seen = f"{platform.python_version()}, {platform.system()} {platform.machine()}, {sys.executable}"
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        yield Finding("python", "warn", seen, "tested on Linux x86_64 only: expect other bits, and other wheels")
    else:
        yield Finding("python", "ok", seen)


def check_versions() -> Iterator[Finding]:
    """Installed libraries against the ranges of pyproject.toml and the lock; torch and torchaudio of one release."""
    requirements = [Requirement(line) for line in _dependencies()]
    tested, other, broken = _tested_versions(), [], False
    for requirement in requirements:
        name, wanted = requirement.name, f"{requirement.name} {requirement.specifier}"
        try:
            found = version(name)
        except PackageNotFoundError:
            broken = True
            yield Finding("versions", "FAIL", f"{name} is not installed, {wanted} is needed", REINSTALL)
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            broken = True
            yield Finding("versions", "FAIL", f"{name} is {found}, {wanted} is needed", REINSTALL)
        elif Version(found).public != tested.get(name, found):
            other.append(f"{name} {found} (tested {tested[name]})")
    if other:
        yield Finding("versions", "warn", ", ".join(other), f"within range, but untested: {REINSTALL}")
    elif not broken:
        yield Finding("versions", "ok", f"{len(requirements)} libraries are those that were tested")
    torch_version, audio_version = _release("torch"), _release("torchaudio")
    if torch_version != audio_version:
        seen = f"torch {torch_version} with torchaudio {audio_version}"
        yield Finding("versions", "FAIL", seen, f"they must be of one release: {REINSTALL}")


def check_imports() -> Iterator[Finding]:
    """Libraries with native parts load here."""
    names = ("torch", "torchaudio", "av", "decord", "ray", "safetensors.torch")
    broken = False
    for name in names:
        try:
            import_module(name)
        except (ImportError, OSError, RuntimeError) as error:
            broken = True
            yield Finding("imports", "FAIL", f"import {name}: {error}", REINSTALL)
    if not broken:
        yield Finding("imports", "ok", ", ".join(names))


def check_gpus() -> Iterator[Finding]:
    """Every CUDA device that torch sees computes; none is fine, unless the machine has one."""
    import torch

    driver = _nvidia_driver()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if not available and driver is None:
        yield Finding("gpu", "ok", "none; the embedded models render on CPU cores")
    elif not available:
        seen = f"driver {driver} is there, torch sees no device; {said[-1].message if said else 'it does not say why'}"
        cure = f"use a driver that supports CUDA {torch.version.cuda}; in a container, --gpus all"
        yield Finding("gpu", "FAIL", seen, f"{cure}; CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES')}")
    for index in range(torch.cuda.device_count() if available else 0):
        yield _gpu(index, driver)


def _gpu(index: int, driver: str | None) -> Finding:
    import torch

    name = torch.cuda.get_device_name(index)
    try:
        free, total = torch.cuda.mem_get_info(index)
        torch.ones(8, device=f"cuda:{index}").sum().item()
    except RuntimeError as error:
        cure = f"this torch is built for {', '.join(torch.cuda.get_arch_list())}; free the GPU, or hide it"
        return Finding("gpu", "FAIL", f"{index}: {name} does not compute: {str(error).splitlines()[0]}", cure)
    seen = f"{index}: {name}, {_gib(free)} of {_gib(total)} free, driver {driver}, CUDA {torch.version.cuda}"
    if free < total / 2:
        return Finding("gpu", "warn", seen, "nvidia-smi shows who holds the rest")
    return Finding("gpu", "ok", seen)


def check_cores() -> Iterator[Finding]:
    """Cores that this process may use, and memory."""
    import torch

    machine, allowed, quota = os.cpu_count() or 1, len(os.sched_getaffinity(0)), _cpu_quota()
    cores = min(allowed, quota or allowed)
    memory = psutil.virtual_memory()
    seen = (
        f"{cores:g} of {machine} cores, torch uses {torch.get_num_threads()} threads unless told,"
        f" {_gib(memory.available)} of {_gib(memory.total)} memory free"
    )
    if cores < machine:
        cure = f"Ray counts {machine} by itself: start the cluster with ray start --num-cpus={max(1, int(cores))}"
        yield Finding("cores", "warn", seen, cure)
    elif cores < 2:
        yield Finding("cores", "warn", seen, "acts overlap from two cores on; render with --in-process")
    else:
        yield Finding("cores", "ok", seen)


def check_shared_memory() -> Iterator[Finding]:
    """/dev/shm holds the object store that Ray makes by default, 30% of the memory; elsewhere it is on disk, slowly."""
    wanted = int(0.3 * psutil.virtual_memory().available)
    free = shutil.disk_usage("/dev/shm").free
    seen = f"{_gib(free)} free in /dev/shm, Ray takes {_gib(wanted)}"
    if free < wanted:
        cure = f"docker run --shm-size={wanted / 1e9:.1f}g, or ray start --object-store-memory={int(0.9 * free)}"
        yield Finding("shared memory", "warn", seen, cure)
    else:
        yield Finding("shared memory", "ok", seen)


def check_codecs() -> Iterator[Finding]:
    """Two frames through libx264 and 2048 samples through AAC, by the encoders that a render uses."""
    import torch

    from pipeline.errors import MediaError
    from pipeline.media.aac import AacEncoder
    from pipeline.media.write import GopEncoder
    from pipeline.values import SoundChunk

    try:
        _, packets = GopEncoder(Fraction(16), quality=20).encode(torch.zeros(2, 64, 64, 3, dtype=torch.uint8), 0, 0)
        sound = AacEncoder(16_000, 1)
        samples = (*sound.encode(SoundChunk(0, 16_000, torch.zeros(1, 2048))), *sound.flush())
        sound.close()
    except (MediaError, ValueError) as error:
        yield Finding("codecs", "FAIL", str(error), f"use PyAV's own wheel, which brings FFmpeg: {REINSTALL}")
        return
    seen = f"libx264 wrote {len(packets)} packets, aac {len(samples)}, PyAV {version('av')}"
    yield Finding("codecs", "ok" if len(packets) == 2 else "FAIL", seen, "" if len(packets) == 2 else REINSTALL)


_RAY_SCRIPT = """
import sys, time
import ray
started = time.perf_counter()
ray.init("local", num_cpus=1, include_dashboard=False, object_store_memory=80 << 20, _temp_dir=sys.argv[1],
         logging_level="ERROR", log_to_driver=False)
up = time.perf_counter()
assert ray.get(ray.remote(lambda: 6 * 7).remote()) == 42
done = time.perf_counter()
ray.shutdown()
print(f"up in {up - started:.1f} s, first task after {done - up:.1f} s")
"""


def check_ray(*, start: bool, timeout_s: float = RAY_START_S) -> Iterator[Finding]:
    """Starts a cluster of its own on this machine, in a process that is ended after `timeout_s`, and runs a task."""
    name = f"Ray {version('ray')}"
    if not start:
        yield Finding("ray", "ok", f"{name}, not started: --no-ray")
        return
    with tempfile.TemporaryDirectory(prefix="lt-", ignore_cleanup_errors=True) as folder:
        command = [sys.executable, "-c", _RAY_SCRIPT, folder]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
            try:
                out, err = process.communicate(timeout=timeout_s)
            except subprocess.TimeoutExpired:
                cure = "look for other Ray clusters and a full disk here, and for a firewall on loopback"
                yield Finding("ray", "FAIL", f"{name}: no task ran within {timeout_s:g} s", cure)
                return
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)  # with raylet and GCS, which stay in its group
    if process.returncode == 0:
        yield Finding("ray", "ok", f"{name}: {out.strip()}")
    else:
        said = (err.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
        cure = f"ray.init() must work by itself first; {tempfile.gettempdir()} (TMPDIR) must be short and writable"
        yield Finding("ray", "FAIL", f"{name}: {said}", cure)


def check_output(output: str) -> Iterator[Finding]:
    """A probe is put into the output root, read back and removed, with every folder that it needed."""
    served = f"fsspec serves {', '.join(_protocols())} here"
    try:
        store = Store(output)
    except (ImportError, ValueError) as error:
        cure = f"{served}; install the package of others into .venv, such as s3fs or gcsfs"
        yield Finding("output", "FAIL", f"{output}: {error}", cure)
        return
    name = f".doctor-{os.getpid()}"
    new_folders = _missing_folders(Path(store.url)) if store.is_local else []
    try:
        _probe(store, name)
    except Exception as error:  # noqa: BLE001  every backend has errors of its own: credentials, buckets, networks
        cure = "use another -o, or cure this one: its permissions (chmod), its free space, its credentials"
        yield Finding("output", "FAIL", f"{store.url_of(name)}: {type(error).__name__}: {error}", cure)
    else:
        yield Finding("output", "ok", f"{store.url} takes, gives back and removes; {served}")
    finally:
        for folder in new_folders:
            if folder.exists() and not any(folder.iterdir()):
                folder.rmdir()


def _probe(store: Store, name: str) -> None:
    probe = os.urandom(32)
    store.put(name, probe)
    read = store.get(name)
    files, path = fsspec.core.url_to_fs(store.url_of(name))
    files.rm(path)
    if read != probe:
        raise OSError(f"{len(probe)} bytes read back differently")


def check_disk(output: str) -> Iterator[Finding]:
    """Free disk against an hour of film: where it is put, or, for a remote output, where it is put together."""
    try:
        store = Store(output)
    except (ImportError, ValueError):
        return
    folder = Path(store.url) if store.is_local else Path(tempfile.gettempdir())
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    seen = (
        f"{_gib(free)} free in {folder}; {SMALL_HOUR} takes up to {_gib(SMALL_HOUR.num_bytes)},"
        f" {LARGE_HOUR} about {_gib(LARGE_HOUR.num_bytes)}"
    )
    cure = "free some, use another -o, or render shorter films (half the length, half the disk)"
    if free < SMALL_HOUR.num_bytes:
        yield Finding("disk", "FAIL", seen, cure)
    elif free < LARGE_HOUR.num_bytes:
        yield Finding("disk", "warn", seen, cure)
    else:
        yield Finding("disk", "ok", seen)


def _dependencies() -> list[str]:
    """From pyproject.toml, where this is a checkout; else from the installed package."""
    pyproject = ROOT / "pyproject.toml"
    if pyproject.exists():
        dependencies: list[str] = tomllib.loads(pyproject.read_text())["project"]["dependencies"]
        return dependencies
    return [line for line in requires("longtake") or () if "extra ==" not in line]


def _tested_versions() -> dict[str, str]:
    """From the lock files, where this is a checkout."""
    lines = [line for path in ROOT.glob("requirements*.lock") for line in path.read_text().splitlines()]
    return dict(line.split("==", 1) for line in lines if "==" in line)


def _release(name: str) -> str | None:
    """Such as 2.11, or None if it is not installed."""
    try:
        found = Version(version(name))
    except PackageNotFoundError:
        return None
    return f"{found.major}.{found.minor}"


def _nvidia_driver() -> str | None:
    """The kernel driver's version, where there is one, such as 580.95.05."""
    try:
        words = Path("/proc/driver/nvidia/version").read_text().split("\n", 1)[0].split()
    except OSError:
        return None
    return next((word for word in words if word[0].isdigit() and "." in word), "of an unknown version")


def _cpu_quota() -> float | None:
    """Cores that the control group (version 2) allows, or None without a limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _protocols() -> list[str]:
    """Of the usual protocols, those whose package is installed."""
    served = []
    for protocol in ("file", "memory", "http", "s3", "gs", "abfs", "sftp"):
        try:
            fsspec.get_filesystem_class(protocol)
        except (ImportError, ValueError):
            continue
        served.append(protocol)
    return served


def _missing_folders(folder: Path) -> list[Path]:
    """`folder` and its parents that do not exist, the innermost first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def _table(findings: list[Finding]) -> Table:
    table = Table("check", "", "seen", "cure")
    for finding in findings:
        colour = _COLOURS[finding.level]
        table.add_row(finding.check, f"[{colour}]{finding.level}", escape(finding.seen), escape(finding.cure))
    return table


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"
