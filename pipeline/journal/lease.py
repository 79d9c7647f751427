"""A lease on an output root in an object store, where no operating system holds a lock.

    journal/writer-00001.json      the first owner's card; only this owner rewrites it, to renew or release
    journal/writer-00002.json      the second owner's card, and so on: the highest number owns the root

A number is claimed by a put that fails if the name exists, so exactly one of several claimants wins, also when the
last owner is dead. Whether it is alive is known at once if it ran on this machine. Otherwise a successor observes its
card by its own monotonic clock: an owner that renews it is alive, and one that does not for a whole lease is dead. The
clocks of two machines are never compared.

An owner that could not renew for a whole lease, or sees its successor's card or another's in place of its own (where
puts are not exact, see `Store.put_if_absent`), has lost the root, and `check` raises.
Its writes in flight do no harm: its data has unique names, and a manifest that it still writes has the same content
as its successor's, since equal keys mean equal bits.
"""

import logging
import re
import threading
from contextlib import suppress
from time import monotonic, sleep, time
from types import TracebackType
from typing import NamedTuple, Self

from longtake.pipeline.errors import JournalError
from longtake.pipeline.journal.owner import OwnerCard
from longtake.pipeline.journal.store import Store

LOG = logging.getLogger("longtake.journal")

LEASE_S = 60.0

_NAME = re.compile(r"journal/writer-(\d{5,})\.json")


class Held(NamedTuple):
    """The highest number among a root's owners, with its card."""

    number: int
    card: OwnerCard


def latest(store: Store) -> Held | None:
    """The last owner of a root, alive or not; None if there was none."""
    numbers = [int(found[1]) for name in store.list("journal") if (found := _NAME.fullmatch(name))]
    if not numbers:
        return None
    number = max(numbers)
    while store.exists(_name(number + 1)):  # some stores list a new name late
        number += 1
    return _held(store, number)


class Lease:
    """Owns a root from `__enter__`, which raises `JournalError` if another process owns it, to `__exit__`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._over, self._superseded = threading.Event(), False

    def __enter__(self) -> Self:
        while True:
            last = latest(self._store)
            if last is not None and not last.card.released:
                self._outlive(last)
            asked, self.card = monotonic(), OwnerCard.of_this_process()
            self._number = 1 if last is None else last.number + 1
            if self._store.put_if_absent(_name(self._number), self._bytes()):
                break
        self._ends = asked + LEASE_S
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        self.card = self.card.model_copy(update={"released": True})
        with suppress(OSError):  # the lease then expires
            self._store.put(_name(self._number), self._bytes())

    def check(self) -> None:
        """Raise `JournalError` if another process may own the root by now."""
        if self._superseded or monotonic() > self._ends:
            raise JournalError(
                f"this process lost its lease on {self._store.url}: it could not renew it for {LEASE_S:g} s, or"
                " another process took over; nothing more is written; run the same command to resume"
            )

    def _outlive(self, last: Held) -> None:
        """Return once the last owner has released the lease or does not renew it; JournalError if it is alive."""
        runs = last.card.runs
        if runs is False:
            return
        alive = bool(runs) and 0 <= time() - last.card.renewed < LEASE_S  # by one clock
        if not alive:
            LOG.warning(
                "%s was being rendered by %s; waiting up to %.0f s to see whether it is alive",
                self._store.url, last.card.who, LEASE_S,
            )  # fmt: skip
        deadline = monotonic() + LEASE_S
        while not alive and monotonic() < deadline:
            sleep(LEASE_S / 20)
            now = _held(self._store, last.number).card
            if now.released:
                return
            alive = now.renewals != last.card.renewals
        if alive:
            raise last.card.refusal(self._store.url)

    def _keep(self) -> None:
        while not self._over.wait(LEASE_S / 4):
            asked = monotonic()
            card = self.card.model_copy(update={"renewals": self.card.renewals + 1, "renewed": time()})
            try:
                number = self._number
                if self._store.exists(_name(number + 1)) or _held(self._store, number).card.token != card.token:
                    self._superseded = True
                    return
                self._store.put(_name(self._number), card.model_dump_json().encode())
            except (OSError, JournalError):
                continue  # retried until the lease has expired
            self.card, self._ends = card, asked + LEASE_S

    def _bytes(self) -> bytes:
        return self.card.model_dump_json().encode()


def _name(number: int) -> str:
    return f"journal/writer-{number:05d}.json"


def _held(store: Store, number: int) -> Held:
    try:
        return Held(number, OwnerCard.parse(store.get(_name(number))))
    except FileNotFoundError:  # deleted since it was listed: another process has taken over
        return Held(number, OwnerCard(released=True))
