import os
import signal
import subprocess
import sys

import pytest

from longtake.actors.ray_signals import own_signals


def group_of_a_child():
    with subprocess.Popen(["sleep", "5"], preexec_fn=lambda: None) as child:  # noqa: PLW1509  as Ray does
        group = os.getpgid(child.pid)
        child.kill()
    return group, child.pid


def test_a_cluster_of_ones_own_is_in_other_process_groups():
    with own_signals():
        group, pid = group_of_a_child()
        assert group == pid
    group, pid = group_of_a_child()
    assert group == os.getpgrp()


def test_sigterm_does_what_it_did_before_also_if_it_comes_while_ray_starts():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    try:
        with own_signals():
            signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))  # as ray.init does
            signal.raise_signal(signal.SIGTERM)
            pytest.fail("Ray's handler ends the process")
        signal.raise_signal(signal.SIGTERM)
        assert seen == [signal.SIGTERM] * 2
        with pytest.raises(SystemExit), own_signals():
            sys.exit(3)
    finally:
        signal.signal(signal.SIGTERM, before)
