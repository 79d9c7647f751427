"""Models in Hugging Face repositories, in the cache that its other tools share."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from longtake.pipeline.errors import WeightsError
from longtake.pipeline.weights.folder import INDEX, MARK, SUFFIXES, parts_of, read_index
from longtake.pipeline.weights.licence import CARD
from longtake.pipeline.weights.node_cache import is_damaged_blob

_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[\w.-]+)(?:@(?P<revision>[\w./-]+))?", re.ASCII)


def is_hub_id(name: str) -> bool:
    """Whether `name` is written like a repository's: `owner/name`, or `owner/name@revision`."""
    return _ID.fullmatch(name) is not None


def fetch_hub(name: str, checksums: Path, cache: Path | None = None, endpoint: str | None = None) -> Path:
    """The model in the repository `name`, as a folder on this node: only the files that its parts are read from.

    Weights that are not what their checksum says are fetched again.

    Args:
        name: `owner/name`, or `owner/name@revision`.
        checksums: this node's cache folder, where they are kept.
        cache: Hugging Face's own, where not given.
        endpoint: huggingface.co, where not given.

    Raises:
        WeightsError: there is no such repository or revision, it asks for a login, it is no diffusers-format model,
            or nobody answers and it was not fetched before.
    """
    match = _ID.fullmatch(name)
    assert match is not None, "asked before"
    repo, revision = match["repo"], match["revision"]
    with _told(name):
        index_file = Path(hf_hub_download(repo, INDEX, revision=revision, cache_dir=cache, endpoint=endpoint))
        commit = index_file.parent.name  # a repository may change between the two calls
        patterns = [INDEX, MARK, CARD]
        for part in parts_of(read_index(index_file.parent)):
            patterns += [f"{part}/*{suffix}" for suffix in SUFFIXES]
        fetch = partial(
            snapshot_download, repo, revision=commit, cache_dir=cache, endpoint=endpoint, allow_patterns=patterns,
            ignore_patterns=["*.fp16.*", "*.bf16.*", "*.non_ema.*", "*.fp16-*"],
        )  # fmt: skip
        folder = Path(fetch())
        damaged = [file for file in folder.rglob("*.safetensors") if is_damaged_blob(file, checksums)]
        for file in damaged:
            file.resolve().unlink()
            file.unlink()
        return Path(fetch()) if damaged else folder


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Turns what the hub raises into one message with the cure."""
    said = f"model is {name!r}: no folder of this name is here, and on Hugging Face "
    try:
        yield
    except GatedRepoError as error:
        raise WeightsError(
            f"{said}its owner lets in only who has agreed to the licence; agree on its page, then `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise WeightsError(
            f"{said}there is no such repository, or it is private; check the name, or `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise WeightsError(f"{said}the repository has no such revision; leave out what follows the @") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise WeightsError(
            f"{said}nobody can be asked now, and no earlier copy is whole; fetch it where there is a network"
            f" (`hf download {name.partition('@')[0]}`), and name the folder, or copy Hugging Face's cache here"
        ) from error
    except EntryNotFoundError as error:
        raise WeightsError(
            f"{said}the repository holds no {INDEX}; use the one in diffusers' format, whose name often ends in"
            " -Diffusers, or `longtake convert` its checkpoint"
        ) from error
    except (HFValidationError, OSError) as error:
        raise WeightsError(f"{said}the answer is: {str(error).splitlines()[0]}") from error
