"""python -m longtake COMMAND ...        the same as `longtake COMMAND ...`."""

from longtake.jobs.cli import main

if __name__ == "__main__":
    main()
