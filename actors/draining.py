"""Notices of nodes that are about to go: drained by an autoscaler, or a spot machine's last minutes."""

from importlib import import_module

import ray


def leaving_nodes() -> set[str]:
    """Ids of nodes that Ray is draining; empty where this Ray does not tell.

    Ray 2.60 has no public way to ask; `ray.train` reads the same table.
    """
    try:
        state = import_module("ray._private.state").state
        return set(state.get_draining_nodes())
    except (ImportError, AttributeError, ray.exceptions.RayError):
        return set()
