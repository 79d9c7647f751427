"""The cache folder for weights, which each node may set for itself."""

import os
from dataclasses import replace
from pathlib import Path

from longtake.pipeline.weights.options import LoadOptions

CACHE = "LONGTAKE_CACHE"
"""The environment variable that names a node's cache folder."""


def on_this_node(load: LoadOptions) -> LoadOptions:
    """`load` with this node's cache folder, where its environment names one."""
    cache = os.environ.get(CACHE)
    return replace(load, cache=Path(cache)) if cache else load
