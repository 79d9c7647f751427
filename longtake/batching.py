"""Render the takes of a manifest from Python."""

import os
from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from threading import Event
from typing import Any

import yaml

from longtake.jobs.batch.options import BatchOptions
from longtake.jobs.batch.report import Report
from longtake.jobs.batch.run import render_batch
from longtake.jobs.batch.session import ray_sessions
from longtake.jobs.progress import Progress
from longtake.options import check_known
from longtake.pipeline.journal.store import Store


def batch(
    manifest: str | os.PathLike[str] | Mapping[str, Any], output: str | os.PathLike[str], **options: Any
) -> Report:
    """Render the takes of a manifest on Ray, several at once. Called again, it renders only unfinished takes.

    Args:
        manifest: the path or fsspec URL of a YAML, JSON Lines or CSV file; or its content as a mapping, which is
            written to `manifest.yaml` in the output.
        output: the folder for films, ledger and report.
        options: `gangs`, `max_parallel`, `ranks`, `threads`, `device`, `retry_quarantined`, `price_per_hour`,
            `address`, `budget_mib`, `chunk_deadline_s`, `overrides`, `dtype`, `quantize`, `numerics`, `replace`,
            `any_size`; see `longtake batch --help`.

    Returns:
        `records` with the `id` and `state` of each take, and the `url` of the report page. A take that fails raises
        nothing.

    Raises:
        SpecError: the manifest has mistakes; nothing was started.
        JournalError: another batch runs in the same place.
    """
    check_known(options, (field.name for field in fields(BatchOptions)))
    root = os.fspath(output)
    if isinstance(manifest, Mapping):
        store = Store(root)
        store.put("manifest.yaml", yaml.safe_dump(dict(manifest), sort_keys=False).encode())
        manifest = store.url_of("manifest.yaml")
    stop = Event()
    sessions = partial(ray_sessions, stop=stop)
    return render_batch(os.fspath(manifest), root, BatchOptions(**options), sessions, stop, Progress.silent())
