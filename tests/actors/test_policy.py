"""Retries and starts, without a cluster."""

import time

import pytest
from ray.exceptions import ActorDiedError, RayTaskError, WorkerCrashedError

from longtake.actors.failures import StartAttempts, cause_of, described, is_final, raised_by_code
from longtake.actors.policy import SLOWDOWN, RetryPolicy, hung_after_s
from longtake.pipeline.errors import ActorLost, SpecError, StartError


def raised(error):
    """The error that Ray raises on the driver for `error` in an actor's method."""
    return RayTaskError("run", f"Traceback ...\n{type(error).__name__}: {error}", error).as_instanceof_cause()


def failed_constructor(error, pid):
    trace = f"ray::StageActor.__init__() (pid={pid})\n  File ...\n{type(error).__name__}: {error}"
    return ActorDiedError(RayTaskError("__init__", trace, error))


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only while it is slept away."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


def test_waits_double_up_to_the_longest_and_the_first_retry_can_be_immediate():
    policy = RetryPolicy(retries=9, back_off_s=1.0, longest_back_off_s=30.0, immediate=1)
    assert [policy.wait_s(failures) for failures in (1, 2, 3, 4, 9)] == [0, 1, 2, 4, 30]
    assert [policy.gives_up(failures) for failures in (1, 9, 10)] == [False, False, True]


def test_a_call_is_hung_only_after_the_deadline_and_many_times_the_longest_call():
    assert hung_after_s(deadline_s=5, longest_s=0.1) == 5
    assert hung_after_s(deadline_s=5, longest_s=2) == 2 * SLOWDOWN


@pytest.mark.parametrize("fail", [raised, lambda error: failed_constructor(error, time.time_ns())])
def test_a_start_that_fails_twice_with_the_same_error_ends_with_it(fail, clock):
    attempts = StartAttempts(180, RetryPolicy())
    attempts.failed(fail(OSError("no such volume")))
    assert clock[0] == 1.0, "a short fault gets time to pass"
    with pytest.raises(StartError, match=r"the same error twice: OSError: no such volume"):
        attempts.failed(fail(OSError("no such volume")))


@pytest.mark.parametrize(
    "errors",
    [
        [raised(OSError(f"attempt {number}")) for number in range(8)],
        [ActorDiedError(), ActorDiedError(), WorkerCrashedError(), ActorLost("no answer"), *[ActorDiedError()] * 4],
    ],
    ids=["errors that differ", "processes that are lost"],
)
def test_other_starts_are_tried_again_until_the_deadline(errors, clock):
    attempts, tried = StartAttempts(100, RetryPolicy()), []

    def start():
        for error in errors:
            tried.append(error)
            attempts.failed(error)

    with pytest.raises(type(errors[-1])) as last:
        start()
    assert last.value is tried[-1]
    assert clock[0] == 1 + 2 + 4 + 8 + 16 + 30 + 30


def test_errors_are_named_in_their_own_words():
    assert described(raised(ValueError("two\n lines"))) == "ValueError: two lines"
    assert raised_by_code(failed_constructor(ValueError("bad"), 7)) == "ValueError: bad"
    assert raised_by_code(ActorDiedError()) is None
    spec = SpecError("width is 65")
    assert cause_of(raised(spec)) is spec
    assert is_final(raised(spec))
    assert not is_final(raised(ActorLost("a peer")))
    assert not is_final(OSError("disk full"))
