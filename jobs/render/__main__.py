"""python -m longtake.jobs.render STORYBOARD -o OUT        the same as `longtake render`; used by Ray Jobs."""

from longtake.jobs.entry import run_command
from longtake.jobs.render.command import command

if __name__ == "__main__":
    run_command(command)
