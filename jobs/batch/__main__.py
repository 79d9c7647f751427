"""python -m longtake.jobs.batch MANIFEST        the same as `longtake batch`; also under `ray job submit`."""

import sys

from longtake.jobs.cli import main

main(["batch", *sys.argv[1:]])
