"""Flags of `longtake models`."""

from longtake.jobs.options import Json


def command(json: Json = False) -> None:
    """List the models that longtake renders: licence, size, and memory by resolution."""
    from longtake.jobs.models.table import print_models

    print_models(as_json=json)
