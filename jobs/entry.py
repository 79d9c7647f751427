"""Runs a command line: an error that longtake raises on purpose becomes one message and an exit code.

Exit codes: 0 done, 1 failed, 2 the call, the storyboard or the manifest is wrong; 130, 143 and 129 ended by Ctrl-C,
SIGTERM and SIGHUP.
"""

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from longtake.jobs.interrupt import Interrupted, ending_by_signals
from longtake.pipeline.errors import LongtakeError, SpecError
from longtake.pipeline.names import redacted

STORE_LIBRARIES = frozenset(
    ("fsspec", "s3fs", "aiobotocore", "botocore", "aiohttp", "gcsfs", "google", "adlfs", "azure", "paramiko")
)
"""Packages whose errors are faults of a store: a network, credentials, a bucket."""


class Command(TyperCommand):
    """A command whose help shows no value type for flags, since flags take no value."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, flags without a metavar."""
        return _without_flag_types(super().get_params(ctx))

    def invoke(self, ctx: Any) -> Any:
        """Run the command; with `--json`, an error is printed as an object, too."""
        try:
            return super().invoke(ctx)
        except Interrupted as error:
            with suppress(OSError):  # of a pipe whose reader has ended, too
                _print_json(ctx, error, error.exit_code)
                print(f"longtake: {error}", file=sys.stderr, flush=True)
            raise typer.Exit(error.exit_code) from None
        except LongtakeError as error:
            _print_json(ctx, cause_of(error), code_of(error))
            raise


class Group(TyperGroup):
    """A group of commands whose help shows no value type for flags."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, flags without a metavar."""
        return _without_flag_types(super().get_params(ctx))


def _print_json(ctx: Any, error: BaseException, exit_code: int) -> None:
    if ctx.params.get("json"):
        print(json.dumps({"error": type(error).__name__, "message": redacted(str(error)), "exit_code": exit_code}))


def _without_flag_types(params: list[Any]) -> list[Any]:
    for param in params:
        if isinstance(param, TyperOption) and (param.is_flag or param.count):
            param.metavar = ""
    return params


def new_app(**settings: Any) -> typer.Typer:
    """An app without commands; `settings` are those of `typer.Typer`."""
    defaults: dict[str, Any] = {"cls": Group, "add_completion": False, "pretty_exceptions_enable": False}
    return typer.Typer(**{**defaults, **settings})


def code_of(error: LongtakeError) -> int:
    """The exit code that an error means."""
    return 2 if isinstance(error, SpecError) else 1


def cause_of(error: LongtakeError) -> BaseException:
    """The error without the stack trace that Ray adds."""
    cause: BaseException = getattr(error, "cause", error)
    return cause


def run(app: typer.Typer, arguments: list[str] | None = None) -> None:
    """Run `app` on `arguments` (default: argv); longtake's own errors are printed without a stack trace."""
    try:
        with ending_by_signals():
            app(arguments)
    except LongtakeError as error:
        typer.secho(f"longtake: {redacted(str(cause_of(error)))}", err=True, fg="red")
        sys.exit(code_of(error))
    except Exception as error:
        if not _is_of_a_store(error):
            raise
        typer.secho(f"longtake: {redacted(' '.join(str(error).split())) or type(error).__name__}", err=True, fg="red")
        sys.exit(1)


def _is_of_a_store(error: Exception) -> bool:
    """Whether an error comes from the operating system, or from the library of a store."""
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in STORE_LIBRARIES


def run_command(command: Callable[..., None]) -> None:
    """Run a single command on argv; this is what `python -m longtake.jobs.COMMAND` does."""
    app = new_app()
    app.command(cls=Command)(command)
    run(app)
