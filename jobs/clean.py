"""`longtake clean`: remove what dead attempts left in a take."""

from longtake.pipeline.journal.clean import clean
from longtake.pipeline.journal.store import Store


def print_cleaned(output: str, *, dry_run: bool) -> None:
    """Clean the take in `output`, and print what was removed, or with `dry_run` what would be."""
    litter = clean(Store(output), dry_run=dry_run)
    for name, size in litter.items():
        print(f"{size:>12} {name}")
    what = "would be removed" if dry_run else "removed"
    print(f"{len(litter)} files, {sum(litter.values())} bytes {what}")
