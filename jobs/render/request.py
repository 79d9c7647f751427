"""A render command that was carried out before: its film is found within a second, since no model is loaded.

`journal/request.json` holds the key of the film that a command rendered. Both the command and everything that decides
the bits of its film are part of the request, so where the request is equal, the film is.
"""

import json
import os
import platform
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from longtake.jobs.feedback import Feedback
from longtake.pipeline.journal.finished import FilmRecord, read_finished
from longtake.pipeline.journal.store import Store
from longtake.pipeline.spec import Storyboard

if TYPE_CHECKING:
    from longtake.pipeline.take import Take

NAME = "journal/request.json"
LIBRARIES = ("longtake", "torch", "torchaudio", "torchao", "av", "numpy", "diffusers", "transformers", "safetensors")
WITHOUT_FILE = ("tiny", "tiny-upscaler")
"""Built-in models with random weights."""


@dataclass(frozen=True)
class Request:
    """A render command.

    Args:
        output: its output root.
        digest: of the command and of what decides its film's bits; None where that is not known without the model.
    """

    output: str
    digest: str | None

    @classmethod
    def of(cls, storyboard: Storyboard, output: str, device: str, options: tuple[Any, ...]) -> Self:
        """The request of a command.

        Args:
            options: further ones that decide the film's bits.
        """
        if device != "cpu":
            return cls(output, None)  # only torch knows the name of the GPU
        try:
            parts = [storyboard.model_dump(mode="json"), options, *_machine(), *_inputs(storyboard)]
        except _NotKnownError:
            return cls(output, None)
        return cls(output, sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest())

    def print_finished(self, feedback: Feedback = Feedback()) -> bool:  # noqa: B008 (it is frozen)
        """Print that the film is finished, if it is known to be; whether it is."""
        store = Store(self.output)
        record = self._finished(store)
        if record is not None:
            print_finished(store, record, feedback)
        return record is not None

    def remember(self, take: "Take") -> None:
        """Remember which film the command renders."""
        if self.digest is not None:
            take.store.put(NAME, json.dumps({"request": self.digest, "film": take.film_key}).encode())

    def _finished(self, store: Store) -> FilmRecord | None:
        if self.digest is None:
            return None
        with suppress(OSError, ValueError):
            known = json.loads(store.get(NAME))
            record = read_finished(store)
            if record is not None and known == {"request": self.digest, "film": record.key}:
                return record
        return None


def print_finished(store: Store, record: FilmRecord, feedback: Feedback) -> None:
    """Print that a film is finished, and where it is."""
    film = store.url_of(record.film)
    playlist = None if record.playlist is None else store.url_of(record.playlist)
    lines = [
        (
            f"{store.url} is finished: {record.chunks} of {record.chunks} chunks are kept, nothing to render"
            " (--fresh renders it again, into a new folder)."
        ),
        f"{film}: {float(record.duration_s):g} s, {record.frames} frames, {record.samples} samples",
        *([] if playlist is None else [f"{playlist}: the same film as a live playlist"]),
    ]
    feedback.result(
        "\n".join(lines),
        film=film,
        playlist=playlist,
        film_s=float(record.duration_s),
        frames=record.frames,
        samples=record.samples,
        kept_chunks=record.chunks,
        rendered_chunks=0,
        seconds=0.0,
    )


def device_here(device: str, address: str | None) -> str:
    """`device`, or for "auto" "cpu" if that is known without torch: on a machine without a GPU, and no cluster."""
    named = address or os.environ.get("RAY_ADDRESS", "")
    joins = named.strip() not in ("", "local") or "RAY_JOB_ID" in os.environ
    return "cpu" if device == "auto" and not joins and not Path("/dev/nvidiactl").exists() else device


class _NotKnownError(Exception):
    """What decides a film's bits is not known without the model."""


def _machine() -> Iterator[Any]:
    """The processor, the libraries and the code."""
    yield [platform.machine(), platform.python_version(), os.environ.get("ATEN_CPU_CAPABILITY")]
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        yield [line for line in lines if line.startswith(("model name", "flags"))][:2]
    yield [_version(library) for library in LIBRARIES]
    yield _state(Path(str(files("longtake.pipeline"))))


def _inputs(storyboard: Storyboard) -> Iterator[Any]:
    """The weights, and the files that condition the film."""
    weights = Path(str(files("longtake.pipeline.weights")))
    names = [storyboard.model, *([storyboard.output.upscaler] if storyboard.output.upscale else [])]
    for name in names:
        built_in = weights / f"{name}.safetensors"
        is_path = os.sep in name or name.endswith(".safetensors") or not (built_in.exists() or name in WITHOUT_FILE)
        yield _state(Path(name).expanduser() if is_path else built_in) if is_path or built_in.exists() else name
    plans = [entry.file for entry in storyboard.sampling.accelerate if entry.file is not None]
    loras = [lora.file for lora in storyboard.loras]
    for url in (*(file.url for file in storyboard.conditioning_files()), *loras, *plans):
        yield _state(Path(url))


def _state(path: Path) -> Any:
    """Names, sizes and times of a file, or of all files in a folder."""
    if not path.exists():
        raise _NotKnownError
    found = sorted(path.rglob("*")) if path.is_dir() else [path]
    files_there = [(file, file.stat()) for file in found if file.is_file() and "__pycache__" not in file.parts]
    return [(str(file), stat.st_size, stat.st_mtime_ns) for file, stat in files_there]


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None
