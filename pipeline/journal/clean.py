"""Deleting what interrupted renders left in an output root, which no later render reads."""

import re
from collections.abc import Collection, Iterator, Mapping

from pydantic import ValidationError

from longtake.pipeline.errors import SpecError
from longtake.pipeline.journal.journal import ChunkManifest
from longtake.pipeline.journal.manifests import manifest_file, read_manifest
from longtake.pipeline.journal.prompts import PromptManifest
from longtake.pipeline.journal.store import Store
from longtake.pipeline.journal.take import NAME as TAKE_NAME, read_take
from longtake.pipeline.journal.writer import owner_of, sole_writer

SCRATCH = "journal/scratch/"

_DATA = re.compile(r"(journal/(?:latents|segments)/\d{5,})-[0-9a-f]{16}\.safetensors")
_PROMPT = re.compile(r"(journal/prompts/[0-9a-f]{16})(?:-[0-9a-f]{16}\.safetensors|\.json)")
_UNFINISHED = re.compile(r"(?:.*/)?\.[^/]+\.[0-9a-f]{16}\.unfinished")
_PROBE = re.compile(r"journal/probe-[0-9a-f]{16}|\.doctor-\d+|\.longtake-[^/]+/.*")
"""What a check of the output root left when it was killed."""
_OWNER = re.compile(r"journal/writer-\d{5,}\.json")
_BELOW = re.compile(r"(?!journal/)(?P<root>.+?/)journal/")
"""A name that belongs to a take in a folder below."""


def clean(store: Store, *, dry_run: bool = False) -> dict[str, int]:
    """Delete data that no manifest names, prompts that the film does not have any more, unfinished files, scratch
    files, probes and cards of earlier owners.

    Args:
        dry_run: delete nothing.

    Returns:
        The bytes of each deleted file by name, or of each that would be deleted.

    Raises:
        SpecError: there is no take.
        JournalError: another process is writing.
    """
    if not store.exists(TAKE_NAME):
        raise SpecError(f"{store.url} holds no take; nothing was deleted")
    if dry_run:
        if (owner := owner_of(store)) is not None:
            raise owner.refusal(store.url)
        return dict(_litter(store))
    with sole_writer(store):
        litter = dict(_litter(store))
        for name in litter:
            store.delete(name)
    return litter


def _litter(store: Store) -> Iterator[tuple[str, int]]:
    found = store.list()
    others = tuple({match["root"] for match in map(_BELOW.match, found) if match})
    found = {name: size for name, size in found.items() if not name.startswith(others)}
    prompts = _prompts(store)
    owners = sorted(filter(_OWNER.fullmatch, found), key=lambda name: (len(name), name))
    for name, size in found.items():
        left = name in owners[:-1] or name.startswith(SCRATCH) or _UNFINISHED.fullmatch(name) or _PROBE.fullmatch(name)
        if left or _is_orphan(store, name, found) or _is_old_prompt(store, name, prompts):
            yield name, size


def _is_orphan(store: Store, name: str, found: Mapping[str, int]) -> bool:
    """Whether `name` is data that its chunk's manifest does not name."""
    data = _DATA.fullmatch(name)
    if data is None:
        return False
    manifest_name = f"{data[1]}.json"
    manifest = read_manifest(store, manifest_name, ChunkManifest) if manifest_name in found else None
    return manifest is None or manifest.data != name


def _prompts(store: Store) -> set[str] | None:
    """The prompts of the film; None if its card is damaged."""
    try:
        card = read_take(store)
    except ValidationError:
        return None
    return {*(scene.prompt for scene in card.scenes), *card.negatives}


def _is_old_prompt(store: Store, name: str, prompts: Collection[str] | None) -> bool:
    """Whether `name` holds a prompt that the film does not have, or data that the prompt's manifest does not name."""
    found = _PROMPT.fullmatch(name)
    if found is None:
        return False
    manifest = read_manifest(store, manifest_file(found[1]), PromptManifest)
    if manifest is None or name not in (manifest_file(found[1]), manifest.data):
        return True
    return prompts is not None and manifest.prompt not in prompts
