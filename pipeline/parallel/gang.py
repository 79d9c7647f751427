"""The ranks that render one chunk together, seen from one of them."""

from typing import Protocol

from longtake.pipeline.attention.exchange import Sharing, Unshared
from longtake.pipeline.models.branches import Branches, EveryBranch


class Parallel(Sharing, Branches, Protocol):
    """How a gang shares a denoiser's passes: its attention sites, its tokens and its guidance branches."""


class OneRank(Unshared, EveryBranch, Parallel):
    """A gang of one."""


ONE_RANK = OneRank()
