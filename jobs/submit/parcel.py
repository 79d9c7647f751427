"""What a submitted job runs, and the files that travel with it: a storyboard, or a manifest with its storyboards."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import yaml

from longtake.jobs.manifest_rows import READ_FIX, read_rows
from longtake.pipeline.errors import SpecError
from longtake.pipeline.spec import Storyboard, parse_storyboard
from longtake.pipeline.yaml_spec import read_text

Kind = Literal["storyboard", "manifest"]


@dataclass(frozen=True)
class SubmitOptions:
    """The flags of `longtake submit`, which its help explains; `flags` are passed on to render or batch unchanged."""

    address: str
    output: str
    overrides: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    follow: bool = True


@dataclass(frozen=True)
class Parcel:
    """The command of a job, and the files that travel with it into its working folder.

    Args:
        name: longtake-<hash of text, overrides and output>.
    """

    name: str
    title: str
    command: tuple[str, ...]
    files: Mapping[str, bytes]


def read_source(url: str) -> str:
    """The text of a storyboard or manifest. Raises `SpecError` if it cannot be read."""
    return read_text(url, READ_FIX)


def kind_of(name: str, text: str) -> Kind:
    """Whether a file is a storyboard, or a manifest: a table or JSON Lines, a list, or a mapping with `takes`."""
    if PurePosixPath(name).suffix in (".jsonl", ".csv"):
        return "manifest"
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return "storyboard"  # its parser reports what is wrong
    is_manifest = isinstance(content, list) or (isinstance(content, dict) and "takes" in content)
    return "manifest" if is_manifest else "storyboard"


def pack(source: str, text: str, output: str, options: SubmitOptions) -> Parcel:
    """The parcel of a storyboard or manifest. Raises `SpecError` with all mistakes of a storyboard."""
    sets = [part for override in options.overrides for part in ("--set", override)]
    identity = json.dumps([text, options.overrides, output])
    name = f"longtake-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    if kind_of(source, text) == "storyboard":
        storyboard = parse_storyboard(text, options.overrides, source=source)
        check_seen(storyboard)
        title = storyboard.title
        file, module, files = "storyboard.yaml", "longtake.jobs.render", {}
    else:
        file, module = f"manifest{PurePosixPath(source).suffix or '.yaml'}", "longtake.jobs.batch"
        title, files = PurePosixPath(source).name, dict(named_files(source))
    command = ("python", "-m", module, file, "-o", output, *sets, *options.flags)
    return Parcel(name, title, command, {**files, file: text.encode()})


def check_seen(storyboard: Storyboard) -> None:
    """Raise `SpecError` if a storyboard names input files that only this machine has."""
    mistakes = [
        f"{file.key} is {file.url!r}, a path relative to the storyboard, which the cluster does not see; use a URL, or"
        " an absolute path that all its nodes have"
        for file in storyboard.conditioning_files()
        if "://" not in file.url and not PurePosixPath(file.url).is_absolute()
    ]
    if mistakes:
        raise SpecError("\n".join(mistakes))


def named_files(manifest: str) -> Iterator[tuple[str, bytes]]:
    """The storyboards that a manifest names relative to its own folder; the cluster must see all others itself."""
    rows = [row.values for row in read_rows(manifest) if isinstance(row.values, dict)]
    names = {str(values["storyboard"]) for values in rows if isinstance(values.get("storyboard"), str)}
    folder = manifest[: manifest.rfind("/") + 1]
    for name in sorted(name for name in names if not name.startswith("/") and "://" not in name):
        if ".." in PurePosixPath(name).parts:
            raise SpecError(f"{manifest} names {name}, which is not below it and cannot travel; move it, or use a URL")
        yield name, read_source(folder + name).encode()


def place_of(output: str) -> str:
    """The output root as the job names it. Raises `SpecError` for memory, which ends with its process."""
    if output.startswith("memory:"):
        raise SpecError(f"-o is {output}; memory belongs to one process: use a URL or a folder that all nodes share")
    return str(Path(output).absolute()) if is_path(output) else output


def is_path(output: str) -> bool:
    """Whether an output root is a path rather than a URL."""
    return "://" not in output or output.startswith("file:")
