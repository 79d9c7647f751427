"""The checks of what the environment names: the folders for temporary files and for downloads, a cluster to join."""

from collections.abc import Iterator

from longtake.jobs.doctor.finding import Finding, Level
from longtake.pipeline.errors import SpecError


def check_places() -> Iterator[Finding]:
    """Ray's sockets fit into the folder for temporary files, and weights can be downloaded."""
    from longtake.actors.load_options import load_options
    from longtake.actors.temp_folder import check_ray_folder, not_writable, ray_folder

    try:
        check_ray_folder()
    except SpecError as error:
        yield _finding("temporary files", "FAIL", error)
    else:
        yield Finding("temporary files", "ok", f"Ray uses {ray_folder()[1]}")
    cache = load_options(None).cache_folder
    why = not_writable(cache)
    if why is None:
        yield Finding("downloads", "ok", f"weights are kept in {cache}")
    else:
        fix = "set LONGTAKE_CACHE to a writable folder, or HOME; the built-in models need neither"
        yield Finding("downloads", "warn", f"{cache} cannot be written: {why}", fix)


def check_address() -> Iterator[Finding]:
    """The cluster that `RAY_ADDRESS` names can be joined; it is not asked for where none is named."""
    from longtake.actors.address import from_environment, reachable

    if from_environment() is None:
        yield Finding("address", "ok", "RAY_ADDRESS names no cluster; a render starts its own")
        return
    try:
        yield Finding("address", "ok", f"a render joins the cluster at {reachable(None)} (RAY_ADDRESS)")
    except SpecError as error:
        finding = _finding("address", "FAIL", error)
        yield Finding(finding.check, finding.level, finding.seen, f"{finding.fix}; or unset RAY_ADDRESS")


def _finding(check: str, level: Level, error: SpecError) -> Finding:
    seen, _, fix = str(error).partition("; ")
    return Finding(check, level, seen, fix)
