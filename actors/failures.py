"""What went wrong in an actor, in its own words, and whether starting it again can help."""

import time
from dataclasses import replace

from ray.exceptions import RayActorError, RayError, RayTaskError, RuntimeEnvSetupError

from longtake.actors.policy import RetryPolicy
from longtake.pipeline.errors import ActorLost, LongtakeError, StartError

_SHOWN_CHARACTERS = 500


def cause_of(error: BaseException) -> BaseException:
    """The error that an actor raised, without the stack trace that Ray adds; any other error as it is."""
    cause = getattr(error, "cause", error)
    return cause if isinstance(cause, BaseException) else error


def described(error: BaseException) -> str:
    """An error as one line: its type and the beginning of its message."""
    cause = cause_of(error)
    return f"{type(cause).__name__}: {' '.join(str(cause).split())[:_SHOWN_CHARACTERS]}"


def is_final(error: BaseException) -> bool:
    """Whether an error was raised on purpose and another try would raise it again."""
    cause = cause_of(error)
    return isinstance(cause, LongtakeError) and not isinstance(cause, ActorLost)


def raised_by_code(error: BaseException) -> str | None:
    """What an actor's constructor or method raised, as one line; None where its process or node was lost.

    Ray reports an error of a constructor as text only, whose last line names the error.
    """
    if isinstance(error, RayTaskError | RuntimeEnvSetupError):
        return described(error)
    if isinstance(error, RayActorError) and error.actor_init_failed:
        return str(error).rstrip().rpartition("\n")[2][:_SHOWN_CHARACTERS]
    return None


class StartAttempts:
    """Tries to start actors, until a deadline or until they fail twice in a row with the same error.

    Args:
        timeout_s: for all tries together.
        policy: how long to wait between them.
    """

    def __init__(self, timeout_s: float, policy: RetryPolicy) -> None:
        self.until = time.monotonic() + timeout_s
        # An error that repeats ends the start, so no retry is immediate: a short fault gets time to pass.
        self._policy = replace(policy, immediate=0)
        self._failures = 0
        self._raised: str | None = None

    def failed(self, error: RayError | ActorLost) -> None:
        """Wait before the next try.

        Raises:
            StartError: the same error was raised twice in a row.
            RayError, ActorLost: `error` itself, where no time is left.
        """
        raised = raised_by_code(error)
        if raised is not None and raised == self._raised:
            raise StartError(f"actors cannot start, the same error twice: {raised}") from error
        self._failures, self._raised = self._failures + 1, raised
        back_off_s = self._policy.wait_s(self._failures)
        if time.monotonic() + back_off_s > self.until:
            raise error
        time.sleep(back_off_s)
