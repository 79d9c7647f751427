"""Commands and scripts in processes of their own, forked from one that has imported what they import.

A process that imports PyTorch and the pipeline for itself takes 5 s of CPU time before it does anything. Environment
variables that these read while they are imported are those of the tests; Ray, which reads many, is not imported.
"""

import atexit
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from tempfile import TemporaryDirectory

IMPORTS = ["longtake.pipeline.acts", "longtake.pipeline.upscale_film", "longtake.jobs.render", "tests.forked"]

_CONTEXT = get_context("forkserver")
_CONTEXT.set_forkserver_preload(IMPORTS)


def run(
    *arguments: object, cwd: str | Path = ".", env: Mapping[str, str] | None = None, check: bool = False
) -> "subprocess.CompletedProcess[str]":
    """What `python` with these arguments, `-m MODULE ...` or `SCRIPT ...`, prints, and its exit code."""
    with TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        with started(*arguments, cwd=cwd, env=env, out=out, err=err) as process:
            process.join()
        ended = subprocess.CompletedProcess(arguments, process.exitcode or 0, out.read_text(), err.read_text())
    if check:
        assert ended.returncode == 0, ended.stderr
    return ended


@contextmanager
def started(
    *arguments: object,
    cwd: str | Path = ".",
    env: Mapping[str, str] | None = None,
    out: str | Path = os.devnull,
    err: str | Path = os.devnull,
) -> Iterator[ForkServerProcess]:
    """`python` with these arguments while it runs, its output in the files `out` and `err`; killed after the block."""
    command = [str(argument) for argument in arguments]
    streams = (os.devnull, str(out), str(err))
    process = _CONTEXT.Process(
        target=_main, args=(command, str(cwd), dict(os.environ if env is None else env), streams)
    )
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def _main(command: list[str], folder: str, env: dict[str, str], streams: tuple[str, ...]) -> None:
    for number, path in enumerate(streams):
        opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    try:
        if command[0] == "-m":
            sys.argv = command[1:]
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = command
            sys.path.insert(0, str(Path(command[0]).parent))
            runpy.run_path(command[0], run_name="__main__")
    finally:  # as at the end of a Python, which a process of `multiprocessing` leaves out
        with suppress(Exception):
            atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
