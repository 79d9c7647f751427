"""`longtake doctor`: checks what a render needs on this machine, with a fix for each problem.

Libraries with native code are imported by the check that needs them, so that a broken library is a finding and the
other checks still run.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from time import perf_counter

from rich.table import Table
from rich.text import Text

from longtake.jobs.doctor.clashes import check_working_folder
from longtake.jobs.doctor.finding import REINSTALL, Finding, Level
from longtake.jobs.doctor.local_ray import check_ray
from longtake.jobs.doctor.machine import check_cores, check_gpus, check_shared_memory
from longtake.jobs.doctor.output import check_disk, check_output
from longtake.jobs.doctor.places import check_address, check_places
from longtake.jobs.doctor.software import check_codecs, check_imports, check_python, check_versions
from longtake.jobs.feedback import plain_console

_COLOURS: dict[Level, str] = {"ok": "green", "warn": "yellow", "FAIL": "red"}


def run_doctor(output: str, *, ray: bool, as_json: bool) -> bool:
    """Print all findings, and return whether no check failed.

    Args:
        output: the output root to test; nothing is left in it.
        ray: also start a local Ray cluster and run one task on it, which takes 5 to 10 seconds.
    """
    started = perf_counter()
    findings = list(examine(output, ray=ray))
    healthy = all(finding.level != "FAIL" for finding in findings)
    if as_json:
        seconds = round(perf_counter() - started, 2)
        print(json.dumps({"ok": healthy, "seconds": seconds, "findings": [asdict(finding) for finding in findings]}))
    else:
        plain_console().print(_table(findings))
    return healthy


def examine(output: str, *, ray: bool) -> Iterator[Finding]:
    """The findings of all checks; a check that raises an error is a finding too."""
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "python": check_python,
        "versions": check_versions,
        "imports": check_imports,
        "working folder": lambda: check_working_folder(Path.cwd()),
        "gpu": check_gpus,
        "cores": check_cores,
        "shared memory": check_shared_memory,
        "codecs": check_codecs,
        "places": check_places,
        "address": check_address,
        "ray": lambda: check_ray(start=ray),
        "output": lambda: check_output(output),
        "disk": lambda: check_disk(output),
    }
    for name, check in checks.items():
        try:
            yield from check()
        except Exception as error:  # noqa: BLE001  a broken library may raise anything, and the other checks still run
            yield Finding(
                name, "FAIL", f"{type(error).__name__}: {error}", f"{REINSTALL}; if that does not help, report a bug"
            )


def _table(findings: list[Finding]) -> Table:
    table = Table("check", "", "seen", "fix")
    for finding in findings:
        table.add_row(finding.check, Text(finding.level, style=_COLOURS[finding.level]), finding.seen, finding.fix)
    return table
