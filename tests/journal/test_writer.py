import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from time import monotonic, sleep

import pytest

from longtake.pipeline.errors import JournalError
from longtake.pipeline.journal import writer
from longtake.pipeline.journal.store import Store
from longtake.pipeline.journal.writer import lend_hand, owner_of, sole_writer

ROOT = Path(__file__).parents[2]


def hold(url, held, over):
    with sole_writer(Store(url)):
        held.set()
        over.wait(30)


def test_a_second_writer_is_refused_with_the_owners_name(tmp_path):
    context = get_context("spawn")
    held, over = context.Event(), context.Event()
    owner = context.Process(target=hold, args=(str(tmp_path), held, over))
    owner.start()
    assert held.wait(30)
    with (
        pytest.raises(JournalError, match=f"being rendered by process {owner.pid} on .*wait for it, stop it"),
        sole_writer(Store(str(tmp_path))),
    ):
        pass
    owner.kill()
    owner.join()
    with sole_writer(Store(str(tmp_path))):
        assert json.loads(Store(str(tmp_path)).get(writer.NAME))["pid"] != owner.pid


def lend(url, lent, seconds):
    hand = lend_hand(Store(url))
    lent.set()
    sleep(seconds)
    hand.close()


def test_the_next_writer_waits_until_the_last_hand_of_a_dead_one_has_let_go(tmp_path, monkeypatch):
    (tmp_path / "journal").mkdir()
    context = get_context("spawn")
    lent = context.Event()
    zombie = context.Process(target=lend, args=(str(tmp_path), lent, 1.0))
    zombie.start()
    assert lent.wait(30)
    monkeypatch.setattr(writer, "HANDS_S", 0.1)
    with pytest.raises(JournalError, match="earlier render"), sole_writer(Store(str(tmp_path))):
        pass
    monkeypatch.setattr(writer, "HANDS_S", 30)
    started = monotonic()
    with sole_writer(Store(str(tmp_path))):
        assert monotonic() - started > 0.2
    zombie.join()


def test_a_writer_lets_go_when_it_is_done(tmp_path):
    for _ in range(2):
        with sole_writer(Store(str(tmp_path))):
            pass


def test_the_lock_is_not_inherited_by_children(tmp_path):
    with sole_writer(Store(str(tmp_path))):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(20)"])
    try:
        with sole_writer(Store(str(tmp_path))):
            pass
    finally:
        child.kill()
        child.wait()


def test_whoever_only_asks_for_the_owner_never_keeps_a_writer_out(tmp_path):
    store = Store(str(tmp_path))
    assert owner_of(store) is None
    with sole_writer(store) as owner:
        assert owner_of(store) == owner
    assert owner_of(store) is None
    with ThreadPoolExecutor() as threads:
        asking = [threads.submit(owner_of, store) for _ in range(200)]
        with sole_writer(store):
            pass
    assert all(answer.exception() is None for answer in asking)
