"""python -m longtake.jobs.train STAGE --config FILE -o RUN_DIR        the same as `longtake train`."""

from longtake.jobs.entry import run_command
from longtake.jobs.train.command import command

if __name__ == "__main__":
    run_command(command)
