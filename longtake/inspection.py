"""Measure a film from Python."""

import os

from longtake.pipeline.inspect.report import Inspection, inspect_film
from longtake.pipeline.inspect.subject import open_subject


def inspect(film: str | os.PathLike[str], *, chunk: str | None = None) -> Inspection:
    """Measure a film: counts, seams, drift, sync, loudness, and for sounding shapes what was asked for and seen.

    Args:
        film: a film, or the output folder of a take: a path or fsspec URL.
        chunk: how long a chunk is, such as "1s", for films without a journal.

    Returns:
        `grade` is the worst verdict, `verdicts` the judged figures, `as_dict()` plain values for JSON.

    Raises:
        MediaError: the film cannot be decoded.
    """
    return inspect_film(open_subject(os.fspath(film), chunk))
