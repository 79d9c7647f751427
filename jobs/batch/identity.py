"""What a take's film depends on, as one hash: a take is done when it was rendered under the hash it has now.

Neither torch nor the weights are loaded for it, and how a take is rendered (ranks, threads, versions) does not count: a
film that is there is not made anew because the cluster has changed.
"""

import json
from functools import cache
from hashlib import sha256
from importlib import resources

import fsspec

from longtake.jobs.batch.manifest import TakeSpec


def fingerprint(take: TakeSpec) -> str:
    """The hash of what `take` wishes and of the weights that it names."""
    parts = {
        "storyboard": take.storyboard.model_dump(mode="json"),
        "output": take.output,
        "weights": _weights(take.storyboard.model),
    }
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@cache
def _weights(model: str) -> str:
    """Shipped weights by their bytes; a file elsewhere by what its file system says of it: size, time, checksum."""
    shipped = resources.files("longtake.pipeline.weights").joinpath(f"{model}.safetensors")
    if "/" not in model and shipped.is_file():
        return sha256(shipped.read_bytes()).hexdigest()
    try:
        files, path = fsspec.core.url_to_fs(model)
        return str(files.ukey(path))
    except (OSError, ValueError, ImportError):
        return "none"  # untrained, or missing: the render will say so
