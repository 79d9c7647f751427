"""`longtake clean`: delete what crashed attempts left in a take."""

from typing import Annotated

import typer

from longtake.jobs.options import Take


def command(
    output: Take,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be deleted.")] = False,
) -> None:
    """Delete what crashed renders left in OUT: orphaned data, unfinished files, scratch files."""
    from longtake.pipeline.journal.clean import clean
    from longtake.pipeline.journal.root import take_root

    litter = clean(take_root(output), dry_run=dry_run)
    for name, size in litter.items():
        print(f"{size:>12} {name}")
    what = "would be deleted" if dry_run else "deleted"
    print(f"{len(litter)} files, {sum(litter.values())} bytes {what}")
