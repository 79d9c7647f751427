"""The checks of Python, the libraries, and their codecs."""

import platform
import sys
import tomllib
from collections.abc import Iterator
from fractions import Fraction
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from longtake.jobs.doctor.finding import REINSTALL, Finding

ROOT = Path(__file__).parents[2]


def check_python() -> Iterator[Finding]:
    """The interpreter and the system are those that the dependencies are locked for."""
    seen = f"{platform.python_version()}, {platform.system()} {platform.machine()}, {sys.executable}"
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        yield Finding(
            "python",
            "warn",
            seen,
            "tested on Linux x86_64 only; expect other wheels, and films that differ in their bits",
        )
    else:
        yield Finding("python", "ok", seen)


def check_versions() -> Iterator[Finding]:
    """Installed libraries are in the ranges of pyproject.toml and as locked; torch and torchaudio match."""
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
        yield Finding(
            "versions", "warn", ", ".join(other), f"in range, but not tested; for the tested versions: {REINSTALL}"
        )
    elif not broken:
        yield Finding("versions", "ok", f"{len(requirements)} libraries have the tested versions")
    torch_version, audio_version = _release("torch"), _release("torchaudio")
    if torch_version != audio_version:
        seen = f"torch {torch_version} with torchaudio {audio_version}"
        yield Finding("versions", "FAIL", seen, f"they must be of the same release: {REINSTALL}")


def check_imports() -> Iterator[Finding]:
    """Libraries with native code can be imported."""
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


def check_codecs() -> Iterator[Finding]:
    """The encoders of a render can encode two frames (libx264) and 2048 samples (AAC)."""
    import torch

    from longtake.pipeline.errors import MediaError
    from longtake.pipeline.media.aac import AacEncoder
    from longtake.pipeline.media.write import GopEncoder
    from longtake.pipeline.values import SoundChunk

    try:
        _, packets = GopEncoder(Fraction(16), quality=20).encode(torch.zeros(2, 64, 64, 3, dtype=torch.uint8), 0, 0)
        sound = AacEncoder(16_000, 1)
        samples = (*sound.encode(SoundChunk(0, 16_000, torch.zeros(1, 2048))), *sound.flush())
        sound.close()
    except (MediaError, ValueError) as error:
        yield Finding("codecs", "FAIL", str(error), f"use the wheel of PyAV, which contains FFmpeg: {REINSTALL}")
        return
    seen = f"libx264 wrote {len(packets)} packets, aac {len(samples)}, PyAV {version('av')}"
    yield Finding("codecs", "ok" if len(packets) == 2 else "FAIL", seen, "" if len(packets) == 2 else REINSTALL)


def _dependencies() -> list[str]:
    """From pyproject.toml in a checkout, otherwise from the installed package."""
    pyproject = ROOT / "pyproject.toml"
    if pyproject.exists():
        dependencies: list[str] = tomllib.loads(pyproject.read_text())["project"]["dependencies"]
        return dependencies
    return [line for line in requires("longtake") or () if "extra ==" not in line]


def _tested_versions() -> dict[str, str]:
    """From the lock files; empty outside a checkout."""
    lines = [line for path in ROOT.glob("requirements*.lock") for line in path.read_text().splitlines()]
    return dict(line.split("==", 1) for line in lines if "==" in line)


def _release(name: str) -> str | None:
    """The release of an installed library, such as 2.11; None if it is not installed."""
    try:
        found = Version(version(name))
    except PackageNotFoundError:
        return None
    return f"{found.major}.{found.minor}"
