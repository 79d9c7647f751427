"""When to look, how long to wait and when to give up: one set of rules for renders, upscaling, training and batches."""

from dataclasses import dataclass

TICK_S = 0.25
"""Seconds between two looks at running work."""

START_S = 180.0
"""Seconds that actors may take to start, back-off included. Ray takes about 12 s to notice that a node died."""

NODES_S = 600.0
"""Seconds that nodes may take to come in addition, where an autoscaler starts them."""

SLOWDOWN = 10
"""A call is hung only once it has taken this many times as long as the longest call before it."""


def hung_after_s(deadline_s: float, longest_s: float) -> float:
    """Seconds after which a call counts as hung.

    Args:
        deadline_s: what the user allows.
        longest_s: the longest call so far.
    """
    return max(deadline_s, SLOWDOWN * longest_s)


@dataclass(frozen=True)
class RetryPolicy:
    """How often something is tried again after it failed, and how long to wait before that.

    Args:
        retries: tries after the first one.
        back_off_s: seconds before a retry; doubled for each further one.
        longest_back_off_s: no wait is longer than this.
        immediate: retries that do not wait.
    """

    retries: int = 2
    back_off_s: float = 1.0
    longest_back_off_s: float = 30.0
    immediate: int = 1

    def gives_up(self, failures: int) -> bool:
        """Whether no further try is made after `failures` in a row."""
        return failures > self.retries

    def wait_s(self, failures: int) -> float:
        """Seconds to wait after `failures` in a row; fewer than one count as one."""
        failures = max(1, failures)
        if failures <= self.immediate:
            return 0.0
        return min(self.back_off_s * 2.0 ** (failures - self.immediate - 1), self.longest_back_off_s)
