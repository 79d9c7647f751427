"""What a submitted job runs, and the files that travel with it: a storyboard, or a manifest with its storyboards.

Files named relative to them travel too. All others, the cluster must see itself.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import fsspec
import yaml

from longtake.jobs.manifest_rows import READ_FIX, read_rows
from longtake.pipeline.errors import SpecError
from longtake.pipeline.journal.store import canonical
from longtake.pipeline.names import is_relative, redacted, scheme_of, stays_below
from longtake.pipeline.spec import Storyboard, parse_storyboard
from longtake.pipeline.weights.peft_config import PEFT_CONFIG, peft_config
from longtake.pipeline.yaml_spec import composed, read_text

Kind = Literal["storyboard", "manifest"]

MOST_BYTES = 64 * 2**20
"""Bytes of all files that travel with one job."""


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
        _, root = composed(text)
    except (yaml.YAMLError, ValueError):
        return "storyboard"  # its parser reports what is wrong
    keys = {key.value for key, _ in root.value} if isinstance(root, yaml.MappingNode) else set()
    return "manifest" if isinstance(root, yaml.SequenceNode) or "takes" in keys else "storyboard"


def pack(source: str, text: str, output: str, options: SubmitOptions) -> Parcel:
    """The parcel of a storyboard or manifest. Raises `SpecError` with all mistakes of a storyboard."""
    sets = [part for override in options.overrides for part in ("--set", override)]
    identity = json.dumps([text, options.overrides, output])
    name = f"longtake-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    if kind_of(source, text) == "storyboard":
        storyboard = parse_storyboard(text, options.overrides, source=source)
        title = storyboard.title
        file, module, files = "storyboard.yaml", "longtake.jobs.render", dict(own_files(storyboard, source))
    else:
        file, module = f"manifest{PurePosixPath(source).suffix or '.yaml'}", "longtake.jobs.batch"
        title, files = PurePosixPath(source).name, dict(named_files(source, options.overrides))
    total = sum(map(len, files.values()))
    if total > MOST_BYTES:
        raise SpecError(
            f"{source} names {total / 1e6:.0f} MB of files next to it, and {MOST_BYTES / 1e6:.0f} MB travel with a job;"
            " put them where all nodes can read them, and name them by URL or absolute path"
        )
    command = ("python", "-m", module, file, "-o", output, *sets, *options.flags)
    return Parcel(name, title, command, {**files, file: text.encode()})


def named_files(manifest: str, overrides: Sequence[str] = ()) -> Iterator[tuple[str, bytes]]:
    """The storyboards that a manifest names relative to its own folder, and their files.

    The cluster must see all others itself.
    """
    seen: set[str] = set()
    for row in read_rows(manifest):
        named = row.values.get("storyboard") if isinstance(row.values, dict) else None
        folder, text = "", b""
        if isinstance(named, dict):
            text = yaml.safe_dump(named).encode()
        elif isinstance(named, str) and is_relative(named) and named not in seen:
            seen.add(named)
            folder, text = named.rpartition("/")[0], _read_below(manifest, named, manifest)
            yield named, text
        try:
            storyboard = parse_storyboard(text.decode("utf-8-sig"), overrides)
        except (SpecError, UnicodeDecodeError):
            continue  # the batch names the mistakes
        yield from own_files(storyboard, manifest, folder)


def own_files(storyboard: Storyboard, source: str, folder: str = "") -> Iterator[tuple[str, bytes]]:
    """The files that a storyboard names relative to itself, by their names relative to `source`.

    Args:
        source: the file that is submitted: the storyboard, or a manifest that names it.
        folder: of the storyboard, relative to `source`.
    """
    files = {file.key: file.url for file in storyboard.conditioning_files()}
    files |= {f"loras[{index}].file": lora.file for index, lora in enumerate(storyboard.loras)}
    plans = [each.file for each in storyboard.sampling.accelerate]
    files |= {f"sampling.accelerate[{index}].file": file for index, file in enumerate(plans) if file is not None}
    for key, url in files.items():
        if is_relative(url):
            name = f"{folder}/{url}".lstrip("/")
            yield name, _read_below(source, name, key)
            if key.startswith("loras") and (config := peft_config(source[: source.rfind("/") + 1] + name)) is not None:
                yield f"{name.rpartition('/')[0]}/{PEFT_CONFIG}".lstrip("/"), config.encode()


def _read_below(source: str, name: str, by: str) -> bytes:
    """The file `name` below the folder of `source`. Raises `SpecError` if it is elsewhere, also by a link."""
    folder = source[: source.rfind("/") + 1]
    outside = not stays_below(name)
    if not outside and not scheme_of(source):
        outside = not Path(folder + name).resolve().is_relative_to(Path(folder or ".").resolve())
    if outside:
        raise SpecError(f"{by} names {name}, which is not below {source} and cannot travel; move it, or use a URL")
    try:
        with fsspec.open(folder + name, "rb") as file:
            data: bytes = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise SpecError(f"{by} names {folder}{name}, which does not exist; {READ_FIX}") from None
    except Exception as error:  # every file system has errors of its own: credentials, buckets, networks
        raise SpecError(f"{by} names {folder}{name}, which cannot be read: {error}") from error
    return data


def place_of(output: str) -> str:
    """The output root as the job names it. Raises `SpecError` for memory, which ends with its process."""
    if output.startswith("memory:"):
        raise SpecError(f"-o is {output}; memory belongs to one process: use a URL or a folder that all nodes share")
    if redacted(output) != output:
        raise SpecError(
            f"-o is {output}; its password would be shown with the job: give the nodes credentials of their own, such"
            " as AWS_ACCESS_KEY_ID in their environment, and leave it out"
        )
    return canonical(output)


def is_path(output: str) -> bool:
    """Whether an output root is a path rather than a URL."""
    return "://" not in canonical(output)
