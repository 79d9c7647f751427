"""python -m longtake.jobs.upscale IN -o OUT        the same as `longtake upscale`; also under `ray job submit`."""

import sys

from longtake.jobs.cli import main

main(["upscale", *sys.argv[1:]])
