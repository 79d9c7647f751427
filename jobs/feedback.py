"""How a command reports: progress while it works, notes, and its result as text or as one JSON object.

Results go to standard output. With `--json` that is one line, and everything else goes to standard error.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from rich.console import Console

from longtake.pipeline.errors import SpecError

Mode = Literal["auto", "bars", "plain", "json", "none"]
LogLevel = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True)
class Feedback:
    """The flags that decide what a command prints; its help explains them.

    Raises:
        SpecError: `verbose` and `quiet` contradict each other.
    """

    progress: Mode = "auto"
    json: bool = False
    verbose: int = 0
    quiet: bool = False
    log_level: LogLevel | None = None

    def __post_init__(self) -> None:
        if self.verbose and self.quiet:
            raise SpecError("-v prints more and -q prints less; leave one of them out")

    @property
    def as_json(self) -> bool:
        """Whether standard output holds nothing but JSON."""
        return self.json or self.progress == "json"

    @cached_property
    def console(self) -> Console:
        """Where notes and progress go: standard output, or standard error if the result is JSON; nowhere with `-q`."""
        return plain_console(stderr=self.as_json, quiet=self.quiet)

    @property
    def mode(self) -> Mode:
        """How progress is shown, never "auto"."""
        if self.quiet:
            return "none"
        if self.progress != "auto":
            return self.progress
        return "bars" if self.console.is_terminal else "plain"

    def result(self, text: str, **fields: Any) -> None:
        """Print the result: `text`, or its fields as JSON."""
        if self.as_json:
            print_json(fields)
        else:
            print(text, flush=True)

    def set_log_levels(self) -> None:
        """Show the logs of longtake, Ray and the actors from `--log-level` on; with `-vv` from info on."""
        level = self.log_level or ("info" if self.verbose > 1 else None)
        if level is not None:
            logging.basicConfig(level=level.upper())
            logging.getLogger("longtake.cluster").setLevel(level.upper())


def plain_console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """A console that prints text as it is: prompts and paths may hold brackets, and no line is wrapped."""
    return Console(stderr=stderr, quiet=quiet, highlight=False, markup=False, soft_wrap=True)


def print_json(fields: Mapping[str, Any]) -> None:
    """Print a JSON object on one line."""
    print(json.dumps(fields, allow_nan=False), flush=True)
