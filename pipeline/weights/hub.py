"""Models in Hugging Face repositories, downloaded to the cache that other Hugging Face tools share."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

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
from longtake.pipeline.weights.folder import INDEX, SUFFIXES, needed, parts_of, read_index
from longtake.pipeline.weights.node_cache import is_damaged_blob

_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[\w.-]+)(?:@(?P<revision>[\w./-]+))?", re.ASCII)


def is_hub_id(name: str) -> bool:
    """Whether `name` has the form of a repository: `owner/name` or `owner/name@revision`."""
    return _ID.fullmatch(name) is not None


def fetch_hub(name: str, checksums: Path, cache: Path | None = None, endpoint: str | None = None) -> Path:
    """Download the model in the repository `name` and return its folder on this node.

    Only files needed to load the model are downloaded. Weights that do not match their checksum are downloaded again.

    Args:
        name: `owner/name` or `owner/name@revision`.
        checksums: this node's cache folder for checksums.
        cache: the download cache; by default Hugging Face's own.
        endpoint: by default huggingface.co.

    Raises:
        WeightsError: the repository or revision does not exist, requires a login, or is not in diffusers' format; or
            the hub cannot be reached and no complete copy is cached.
    """
    from huggingface_hub import hf_hub_download, snapshot_download  # noqa: PLC0415 (a tenth of an actor's start)

    match = _ID.fullmatch(name)
    assert match is not None, "callers check is_hub_id"
    repo, revision = match["repo"], match["revision"]
    with _as_weights_errors(name):
        index_file = Path(hf_hub_download(repo, INDEX, revision=revision, cache_dir=cache, endpoint=endpoint))
        commit = index_file.parent.name  # the repository may change between the two calls
        index = read_index(index_file.parent)
        patterns = _needed_files(repo, commit, index, endpoint) or _cached_files(index_file.parent, index)
        fetch = partial(
            snapshot_download, repo, revision=commit, cache_dir=cache, endpoint=endpoint, allow_patterns=patterns
        )
        folder = Path(fetch())
        damaged = [file for file in folder.rglob("*.safetensors") if is_damaged_blob(file, checksums)]
        for file in damaged:
            file.resolve().unlink()
            file.unlink()
        return Path(fetch()) if damaged else folder


def _needed_files(repo: str, commit: str, index: dict[str, Any], endpoint: str | None) -> list[str]:
    """The files of a repository that are needed to load its model; none if the hub cannot be reached.

    Raises:
        WeightsError: a part has only pickles, or several variants; nothing was downloaded for it.
    """
    from huggingface_hub import HfApi  # noqa: PLC0415
    from huggingface_hub.hf_api import RepoFile  # noqa: PLC0415

    try:
        tree = HfApi(endpoint=endpoint).list_repo_tree(repo, revision=commit, recursive=True)
        names = [each.path for each in tree if isinstance(each, RepoFile)]
    except Exception:  # noqa: BLE001 (offline; the errors are those of an HTTP library that differs by version)
        return []
    return needed(names, index, repo)


def _cached_files(snapshot: Path, index: dict[str, Any]) -> list[str]:
    """The cached files of a model, and everything of the parts of which there are none."""
    names = [file.relative_to(snapshot).as_posix() for file in snapshot.rglob("*") if file.is_file()]
    missing = [part for part in parts_of(index) if not any(name.startswith(f"{part}/") for name in names)]
    return [*names, *(f"{part}/*{suffix}" for part in missing for suffix in SUFFIXES)]


@contextmanager
def _as_weights_errors(name: str) -> Iterator[None]:
    """Convert the hub's exceptions to `WeightsError` with the fix."""
    prefix = f"model is {name!r}: no such local folder, and on Hugging Face "
    try:
        yield
    except GatedRepoError as error:
        raise WeightsError(
            f"{prefix}access requires agreement to the licence; agree on its page, then run `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise WeightsError(
            f"{prefix}no such repository exists, or it is private; check the name, or run `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise WeightsError(
            f"{prefix}the repository has no such revision; check what follows the @, or leave it out"
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise WeightsError(
            f"{prefix}the hub cannot be reached, and no complete copy is cached; download it on a machine with network"
            f" access (`hf download {name.partition('@')[0]}`), then pass the folder, or copy Hugging Face's cache here"
        ) from error
    except EntryNotFoundError as error:
        raise WeightsError(
            f"{prefix}the repository has no {INDEX}; use the one in diffusers' format, whose name often ends in"
            " -Diffusers, or convert its checkpoint with `longtake convert`"
        ) from error
    except (HFValidationError, OSError) as error:
        raise WeightsError(f"{prefix}the request failed: {str(error).splitlines()[0]}") from error
