"""`longtake`: the command line. Only what answers a signal is imported before everything else."""

from longtake.jobs.early_signals import ending_at_once


def main(arguments: list[str] | None = None) -> None:
    """Run the command line on `arguments` (default: argv)."""
    with ending_at_once():
        from longtake.jobs.app import app
        from longtake.jobs.entry import run

        run(app, arguments)
