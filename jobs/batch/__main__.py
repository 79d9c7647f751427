"""python -m jobs.batch MANIFEST        the same as `longtake batch`; also under `ray job submit`."""

import sys

from jobs.cli import main

main(["batch", *sys.argv[1:]])
