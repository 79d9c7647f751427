"""One hash of what a take's film depends on: a take is done if it was rendered under its current hash.

It is computed without loading torch or the weights. How a take is rendered (ranks, threads, versions) is not part of
it: a finished film is not rendered again because the cluster has changed.
"""

import json
from functools import cache
from hashlib import sha256
from importlib import resources

import fsspec

from longtake.jobs.batch.manifest import TakeSpec


def fingerprint(take: TakeSpec) -> str:
    """The hash of a take's storyboard, its output and its weights."""
    parts = {
        "storyboard": take.storyboard.model_dump(mode="json"),
        "output": take.output,
        "weights": _weights(take.storyboard.model),
    }
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@cache
def _weights(model: str) -> str:
    """Shipped weights by their bytes; other files by what their file system reports: size, time, checksum."""
    shipped = resources.files("longtake.pipeline.weights").joinpath(f"{model}.safetensors")
    if "/" not in model and shipped.is_file():
        return sha256(shipped.read_bytes()).hexdigest()
    try:
        files, path = fsspec.core.url_to_fs(model)
        return str(files.ukey(path))
    except (OSError, ValueError, ImportError):
        return "none"  # untrained or missing; the render reports it
