"""python -m longtake.jobs.batch MANIFEST        the same as `longtake batch`; used by Ray Jobs."""

from longtake.jobs.batch.command import command
from longtake.jobs.entry import run_command

if __name__ == "__main__":
    run_command(command)
