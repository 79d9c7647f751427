"""python -m longtake.jobs.upscale IN -o OUT        the same as `longtake upscale`; used by Ray Jobs."""

from longtake.jobs.entry import run_command
from longtake.jobs.upscale.command import command

if __name__ == "__main__":
    run_command(command)
