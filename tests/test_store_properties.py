"""Random sequences of operations, faults and crashes keep the promises of the store.

A model remembers what was answered. What was stored is never lost or doubled, what was deleted
does not come back, the last label is the one that is seen, and errors are raised only when they
are allowed. An operation whose answer was an error or a crash may have been done or not.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.conftest import new_database
from tests.faults import Faulty, FaultyPostgres, FaultySqlite, Stored
from webapp import prediction as prediction_module
from webapp.errors import NotFound, QueryRejected, StorageUnavailable
from webapp.prediction import (
    Classification,
    Deletion,
    Filters,
    Prediction,
    first_id,
    new_prediction,
)
from webapp.store import FAILURES, PredictionStore

R = TypeVar("R")

STORES = (0, 0, 1)  # the outbox of each worker process: two share one, the third has its own
TICK_NS = 130_000  # from one prediction to the next: some are made in the same millisecond
MINUTE_NS = 60_000_000_000


class Crash(BaseException):
    """The process is killed."""


@dataclass(eq=False)
class Row:
    """What was answered about one prediction."""

    made: Prediction
    is_stored: bool = False  # otherwise it may be, because the answer was lost
    is_deleted: bool = False
    may_be_deleted: bool = False
    labels: set[int | None] = field(default_factory=lambda: {None})  # several after a lost answer
    all_labels: set[int | None] = field(default_factory=lambda: {None})
    # Outboxes that kept a copy when the row was deleted or labelled elsewhere. They may show the
    # copy while the database is unavailable, and only then.
    outdated_in: set[int] = field(default_factory=set)

    @property
    def is_certain(self) -> bool:
        """Whether it has to be there."""
        return self.is_stored and not self.may_be_deleted

    def versions(self, labels: set[int | None]) -> list[Prediction]:
        """Return the row with each of some labels."""
        return [replace(self.made, true_digit=label) for label in labels]


@dataclass
class World:
    """What outlives a sequence of operations."""

    database: Faulty
    outboxes: list[FaultySqlite]


stores = st.integers(0, len(STORES) - 1)
rows = st.integers(0, 9)  # 0 is the newest
digits = st.integers(1, 2)
visitors = st.sampled_from(["me", "you"])
versions = st.sampled_from(["v1", "v2"])
filters = st.one_of(
    st.just(Filters()),
    st.builds(Filters, labelled=st.booleans()),
    st.builds(Filters, correct=st.booleans()),
    st.builds(Filters, digit=digits, visitor=visitors, model_version=versions),
)
Operation = tuple[Any, ...]  # the name of a method of Stores, and its arguments


def _calls(name: str, *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Operation]:
    return st.tuples(st.just(name), *arguments)


keys = st.sampled_from(["", "", "a", "b"])
labels = _calls("label", stores, rows, st.none() | digits)
predictions = _calls("predict", stores, digits, versions, visitors, keys)
reads = (
    _calls("read_list", stores, st.integers(1, 3), filters)
    | _calls("list_since", stores, rows, st.booleans())
    | _calls("get", stores, rows)
    | _calls("count", stores)
)
deletions = (
    _calls("delete_one", stores, rows)
    | _calls("delete_before", stores, rows, st.none() | visitors)
    | _calls("delete_until_now", stores, st.none() | visitors)
)
operations = st.one_of(predictions, predictions, labels, labels, deletions, reads)
flushes = _calls("flush", stores)
outbox_faults = _calls("fail_outbox", st.integers(0, 1), st.sampled_from(["locked", "full"]))
events = st.one_of(
    _calls("crash"),
    _calls("crash"),
    flushes,
    _calls("fail_database", st.just(0)),
    _calls("heal_database"),
    outbox_faults,
)
faults = st.one_of(
    _calls("fail_database", st.integers(0, 3)),
    _calls("fail_database", st.integers(0, 3)),
    _calls("heal_database"),
    outbox_faults,
    _calls("end_connections") | _calls("set_clock_back") | _calls("restart", stores),
)


class Stores(RuleBasedStateMachine):
    """Three worker processes with one database and two outboxes."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.database, self.outboxes = world.database, world.outboxes
        self.rows: dict[str, Row] = {}
        self.deletions: list[tuple[int, Deletion]] = []  # the time of each, and what it covers
        self.now_ns = int(time.time()) * 1_000_000_000
        self.interruption: tuple[int, Operation] | None = None
        self.inside: list[int] = []  # the stores that are being asked
        self.flushing: set[int] = set()
        self.changes = 0  # of faults
        self.had_fault = self.had_outbox_fault = False  # during the last operation
        self.patch = pytest.MonkeyPatch()
        clock = SimpleNamespace(time_ns=lambda: self.now_ns)
        self.patch.setattr(prediction_module, "time", clock)
        self.patch.setattr("webapp.store.CACHE_THRESHOLD_S", math.inf)
        self.patch.setattr("webapp.database.DELETE_BATCH", 2)
        self.patch.setattr("webapp.store.BATCH", 2)
        self.patch.setattr("webapp.engines.ANSWER_GRACE_S", 0.1)
        sa.event.listen(sa.pool.Pool, "checkout", self.before_transaction)
        self.checked = 0  # the store whose list was checked last
        self.stores = [self.start(process) for process in range(len(STORES))]

    # ---- what happens --------------------------------------------------------------------------

    @rule(operation=predictions)
    def store(self, operation: Operation) -> None:
        """Store a prediction."""
        self.do(operation)

    @rule(operation=operations)
    def operate(self, operation: Operation) -> None:
        """Ask one store for something."""
        self.do(operation)

    @rule(operation=operations | flushes, at=st.integers(0, 5), event=events)
    def interrupt(self, operation: Operation, at: int, event: Operation) -> None:
        """Let something happen between two transactions of an operation."""
        self.interruption = (at, event)
        self.do(operation)
        self.interruption = None

    @rule(flush=flushes, at=st.integers(0, 5), operation=operations)
    def operate_during_flush(self, flush: Operation, at: int, operation: Operation) -> None:
        """Ask another process between two transactions of a flush."""
        self.interruption = (at, operation)
        self.do(flush)
        self.interruption = None

    @rule(store=stores, probe=st.booleans(), flush=st.booleans())
    def tend(self, store: int, probe: bool, flush: bool) -> None:
        """Do what the background thread does, or half of it."""
        if probe:
            self.probe(store)
        if flush:
            self.flush(store)

    @rule(event=faults)
    def fail_or_heal(self, event: Operation) -> None:
        """Let something fail or work again."""
        self.do(event)

    # ---- faults --------------------------------------------------------------------------------

    def fail_database(self, number: int) -> None:
        """Let the database fail."""
        self.heal_database()
        if self.database.fault:  # it hangs while a store waits for it
            return
        fault = self.database.faults[number % len(self.database.faults)]
        self.database.fail(fault, self.reconnect)
        self.changes += 1

    def heal_database(self) -> None:
        """Let the database work again."""
        if self.database.fault and not (self.inside and self.database.fault == "hanging"):
            self.database.heal(self.reconnect)
            self.changes += 1

    def end_connections(self) -> None:
        """Close the connections that the stores have open."""
        if not self.database.fault:
            self.database.end_connections()

    def fail_outbox(self, number: int, fault: str) -> None:
        """Let an outbox refuse to be written to, or work again if it does."""
        outbox = self.outboxes[number]
        if outbox.fault:
            outbox.heal(self.reconnect_outboxes)
        else:
            outbox.fail(fault, self.reconnect_outboxes)
        self.changes += 1

    def set_clock_back(self) -> None:
        """Set the clock back by a minute."""
        self.now_ns -= MINUTE_NS

    def restart(self, store: int) -> None:
        """Replace a process by a new one."""
        self.stores[store] = self.start(store)

    def crash(self) -> None:
        """Kill the process that is being asked."""
        raise Crash

    def start(self, process: int) -> PredictionStore:
        """Return the store of a new process."""
        outbox = self.outboxes[STORES[process]]
        return PredictionStore(self.database.open(process), outbox.open(process))

    def reconnect(self) -> None:
        """Give all stores new connections to the database."""
        for process, store in enumerate(self.stores):
            store.database = self.database.open(process)

    def reconnect_outboxes(self) -> None:
        """Give all stores new connections to the outboxes."""
        for process, store in enumerate(self.stores):
            store.outbox = self.outboxes[STORES[process]].open(process)

    # ---- operations ----------------------------------------------------------------------------

    def do(self, operation: Operation) -> None:
        """Do something by its name."""
        name, *arguments = operation
        getattr(self, name)(*arguments)

    def predict(self, store: int, digit: int, version: str, visitor: str, key: str) -> None:
        """Store a prediction."""
        self.now_ns += TICK_NS
        self.patch.setattr(prediction_module, "_last_ns", 0)  # another process may have made others
        answer = Classification(digit, 1.0, [0.1] * 10, doubt=None)
        made = new_prediction(answer, version, bytes(784), visitor, key or None)
        row = Row(made)
        # An outbox cannot tell that it was made after the deletion, if the clock was set back.
        row.may_be_deleted = any(
            deletion.covers(made) for time_ns, deletion in self.deletions if self.now_ns < time_ns
        )
        earlier = [row for row in self.rows.values() if key and row.made.idempotency_key == key]
        before, here = self.places(), STORES[store]
        self.rows[made.id] = row
        try:
            found = self.ask(store, lambda store: store.insert(made))
        except Crash:
            return
        except FAILURES:
            assert self.had_fault
            assert self.had_outbox_fault
            return
        if found.id != made.id:
            del self.rows[made.id]
            assert self.rows[found.id] in earlier
            self.check(store, found, self.had_fault)
            self.rows[found.id].is_stored = True
            return
        row.is_stored = True
        for other in earlier if not self.had_fault else ():
            places = [before[-1].get(other.made.id), before[here].get(other.made.id)]
            has_key = len(earlier) == 1 or any(each and each.idempotency_key for each in places)
            assert not (any(places) and has_key and other.is_certain), "stored twice"
        if not self.had_fault:
            assert made.id in self.places()[-1], "the database was available"

    def label(self, store: int, number: int, digit: int | None) -> None:
        """Set or remove a label."""
        if not (row := self.row(number)):
            return
        here, id_ = STORES[store], row.made.id
        before, labels = self.places(), set(row.labels)
        row.labels.add(digit)
        row.all_labels.add(digit)
        try:
            found = self.ask(store, lambda store: store.label(id_, digit, "visitor"))
        except Crash:
            return
        except NotFound:
            row.labels = labels
            self.check_not_found(row, before, here)
            return
        except FAILURES as error:
            waited = id_ in before[here] and id_ in self.places()[here]
            if waited and isinstance(error, StorageUnavailable):
                assert self.had_outbox_fault
            else:
                assert self.had_fault or (self.had_outbox_fault and id_ not in before[-1])
            return
        assert found.id == id_
        assert found.true_digit == digit
        places = self.places()
        if row.is_deleted:
            assert self.had_fault
            assert here in row.outdated_in
        elif id_ in places[-1] and (not self.had_fault or places[-1][id_].true_digit == digit):
            self.note_outdated(store, row)
        row.labels = {digit}
        row.is_stored = True

    def delete_one(self, store: int, number: int) -> None:
        """Delete one prediction."""
        if row := self.row(number):
            self.delete(store, Deletion(row.made.id))

    def delete_before(self, store: int, number: int, visitor: str | None) -> None:
        """Delete what is older than a prediction."""
        if (row := self.row(number)) and row.made.id <= first_id(self.now()):
            self.delete(store, Deletion(before=row.made.id, visitor=visitor))

    def delete_until_now(self, store: int, visitor: str | None) -> None:
        """Delete what is older than now."""
        self.delete(store, Deletion(before=first_id(self.now()), visitor=visitor))

    def delete(self, store: int, deletion: Deletion) -> None:
        """Delete predictions."""
        here = STORES[store]
        covered = [row for row in self.rows.values() if deletion.covers(row.made)]
        before = self.places()
        least = sum(
            row.is_certain and (row.made.id in before[-1] or row.made.id in before[here])
            for row in covered
        )
        most = sum((row.made.id in before[-1]) + (row.made.id in before[here]) for row in covered)
        for row in covered:
            row.may_be_deleted = True
        self.deletions.append((self.now_ns, deletion))
        try:
            deleted = self.ask(store, lambda store: store.delete(deletion))
        except Crash:
            return
        except FAILURES:
            assert self.had_fault
            return
        if not self.had_fault and not self.had_outbox_fault:
            assert least <= deleted <= most
        for row in covered:
            row.is_deleted = True
            self.note_outdated(store, row)

    def get(self, store: int, number: int) -> None:
        """Read one prediction."""
        if not (row := self.row(number)):
            return
        here, id_ = STORES[store], row.made.id
        before = self.places()
        try:
            found = self.ask(store, lambda store: store.get(id_))
        except Crash:
            return
        except NotFound:
            self.check_not_found(row, before, here)
        except QueryRejected:
            assert self.had_fault
        except StorageUnavailable:
            assert self.had_fault
            assert not (id_ in before[here] and id_ in self.places()[here])
        else:
            assert found.id == id_
            self.check(store, found, self.had_fault)

    def list_since(self, store: int, number: int, is_until: bool) -> None:
        """List what was made since or until some prediction was."""
        if row := self.row(number):
            made = row.made.created_at
            self.read_list(store, 2, Filters(until=made) if is_until else Filters(since=made))

    def read_list(self, store: int, limit: int, filters: Filters) -> None:
        """List predictions, page by page."""
        places = [self.places()]
        found: list[Prediction] = []
        before: str | None = None
        had_fault = is_partial = False
        while True:
            try:
                page = self.ask(
                    store,
                    partial(PredictionStore.page, limit=limit, before=before, filters=filters),
                )
            except Crash:
                return
            except QueryRejected:
                assert self.had_fault
                return
            places.append(self.places())
            had_fault |= self.had_fault
            is_partial |= page.partial
            assert had_fault or not is_partial
            assert len(page.predictions) <= limit
            found += page.predictions
            if page.next is None:
                break
            assert before is None or page.next < before
            before = page.next
            assert all(row.id >= before for row in page.predictions)
        self.check_list(store, found, filters, places, is_partial)

    def count(self, store: int) -> None:
        """Count predictions."""
        before = self.places()
        try:
            counts = self.ask(store, lambda store: store.counts())
        except Crash:
            return
        except FAILURES:
            assert self.had_fault
            return
        visible = self.visible(store, [before, self.places()])
        certain = [row for row in self.rows.values() if row.is_certain and row.made.id in visible]
        possible = [row for row in self.rows.values() if not row.is_deleted]
        daily = Counter[Any]()
        for count in counts.daily:
            daily[count[:3]] += count.predictions
        assert _daily(certain) <= daily <= _daily(possible)
        labels = Counter({count[:-1]: count.predictions for count in counts.labels})
        seen = {row.made.id: self.labels_seen_by(store, row) for row in possible}
        labelled = [row for row in certain if len(seen[row.made.id]) == 1]
        assert _labels(labelled, seen) <= labels <= _labels(possible, seen)

    def flush(self, store: int) -> None:
        """Flush an outbox, as the background thread does."""
        outbox = STORES[store]
        if outbox in self.flushing or not self.stores[store].available:
            return
        self.flushing.add(outbox)
        try:
            self.ask(store, lambda store: store.flush())
        except Crash:
            pass
        finally:
            self.flushing.remove(outbox)

    def probe(self, store: int) -> None:
        """Find out whether the database is available."""
        try:
            self.ask(store, lambda store: store.probe())
        except Crash:
            return
        if self.database.fault != "full":
            assert self.stores[store].available == (self.database.fault is None)

    def ask(self, store: int, question: Callable[[PredictionStore], R]) -> R:
        """Return what a store answers; note what failed meanwhile."""
        changes = self.changes
        had_fault, had_outbox_fault = self.has_fault(store), self.has_outbox_fault(store)
        self.inside.append(store)
        try:
            return question(self.stores[store])
        except Crash:
            self.restart(store)
            raise
        finally:
            self.inside.pop()
            changed = self.changes > changes
            self.had_fault = changed or had_fault or self.has_fault(store)
            self.had_outbox_fault = changed or had_outbox_fault or self.has_outbox_fault(store)

    def before_transaction(self, *_: object) -> None:
        """Interrupt an operation, if that is its turn."""
        if not self.interruption or not self.inside:
            return
        number, event = self.interruption
        self.interruption = (number - 1, event) if number else None
        if number == 0 and event[1:2] != (self.inside[-1],):  # its connections may be in use
            self.do(event)

    # ---- what has to hold ----------------------------------------------------------------------

    @invariant()
    def nothing_is_lost(self) -> None:
        """Every row is in the database or in an outbox."""
        places = self.places()
        for row in self.rows.values():
            if row.is_certain:
                assert any(row.made.id in place for place in places), "lost"

    @invariant()
    def lists_are_right(self) -> None:
        """Compare the list of one store, another one each time."""
        if self.database.fault in (None, "down"):
            self.checked = (self.checked + 1) % len(STORES)
            self.read_list(self.checked, 100, Filters())

    def check_list(
        self,
        store: int,
        found: Sequence[Prediction],
        filters: Filters,
        places: Sequence[Sequence[dict[str, Stored]]],
        is_partial: bool,
    ) -> None:
        """Check a list that was read between two looks at what is stored."""
        ids = [each.id for each in found]
        assert ids == sorted(set(ids), reverse=True)
        for each in found:
            self.check(store, each, is_partial)
            assert _matches(filters, each)
        visible = self.visible(store, places, is_partial)
        for row in self.rows.values():
            is_outdated = is_partial and STORES[store] in row.outdated_in
            if row.is_certain and row.made.id in visible and not is_outdated:
                versions = row.versions(self.labels_seen_by(store, row))
                matches = all(_matches(filters, version) for version in versions)
                assert row.made.id in ids or not matches, "not listed"

    def check(self, store: int, found: Prediction, is_partial: bool) -> None:
        """Check a row that a store returned."""
        row = self.rows[found.id]
        is_outdated = is_partial and STORES[store] in row.outdated_in
        assert is_outdated or not row.is_deleted, "deleted"
        labels = row.all_labels if is_outdated else self.labels_seen_by(store, row)
        assert found.true_digit in labels, "label"
        for name in ("created_at", "predicted_digit", "model_version", "pixels", "visitor"):
            assert getattr(found, name) == getattr(row.made, name)

    def labels_seen_by(self, store: int, row: Row) -> set[int | None]:
        """Return the labels with which a store may return a row.

        While it waits in an outbox that the store does not use, the database may have an older
        label: that of an insert that was not answered in time, but executed later.
        """
        others = [outbox for i, outbox in enumerate(self.outboxes) if i != STORES[store]]
        waits_elsewhere = any(row.made.id in outbox.rows() for outbox in others)
        return row.all_labels if waits_elsewhere else row.labels

    def check_not_found(self, row: Row, before: list[dict[str, Stored]], here: int) -> None:
        """Check that a row may not be found."""
        visible = row.made.id in before[here] or row.made.id in before[-1]
        assert not (row.is_certain and visible), "not found"

    def note_outdated(self, store: int, row: Row) -> None:
        """Note which outboxes keep an old copy of a row."""
        places = self.places()
        kept = {number for number in range(len(self.outboxes)) if row.made.id in places[number]}
        assert STORES[store] not in kept or self.had_outbox_fault or self.had_fault
        row.outdated_in |= kept

    def has_fault(self, store: int) -> bool:
        """Return whether the database fails, or a store considers it unavailable."""
        return bool(self.database.fault) or not self.stores[store].available

    def has_outbox_fault(self, store: int) -> bool:
        """Return whether a store's outbox fails."""
        return bool(self.outboxes[STORES[store]].fault)

    def row(self, number: int) -> Row | None:
        """Return one of the rows; 0 is the newest."""
        all_rows = list(self.rows.values())
        return all_rows[-1 - number % len(all_rows)] if all_rows else None

    def places(self) -> list[dict[str, Stored]]:
        """Return what is stored in the outboxes and, last, in the database."""
        return [each.rows() for each in (*self.outboxes, self.database)]

    def visible(
        self,
        store: int,
        places: Sequence[Sequence[dict[str, Stored]]],
        is_partial: bool = False,
    ) -> set[str]:
        """Return the ids that a store could see all the time."""
        seen = [
            set(each[STORES[store]]) | (set() if is_partial else set(each[-1])) for each in places
        ]
        return set.intersection(*seen)

    def now(self) -> datetime:
        """Return the time."""
        return datetime.fromtimestamp(self.now_ns / 1e9, UTC)

    def teardown(self) -> None:
        """Heal everything, flush, and check that everything is as it should be."""
        try:
            self.finish()
        finally:
            sa.event.remove(sa.pool.Pool, "checkout", self.before_transaction)
            self.patch.undo()
            for each in (self.database, *self.outboxes):
                if each.fault:
                    each.heal(lambda: None)
                each.clear()

    def finish(self) -> None:
        """Check everything after all faults."""
        self.heal_database()
        for number, outbox in enumerate(self.outboxes):
            if outbox.fault:
                self.fail_outbox(number, "")
        for store in range(len(STORES)):
            self.probe(store)
            self.flush(store)
        *waiting, stored = self.places()
        assert not any(waiting), "not flushed"
        for row in self.rows.values():
            assert row.made.id in stored or not row.is_certain
            assert row.made.id not in stored or not row.is_deleted
        for store in range(len(STORES)):
            self.read_list(store, 1, Filters())
            self.count(store)


def _matches(filters: Filters, row: Prediction) -> bool:
    is_correct = None if row.true_digit is None else row.true_digit == row.predicted_digit
    return (
        filters.digit in (None, row.predicted_digit)
        and filters.labelled in (None, row.true_digit is not None)
        and (filters.correct is None or filters.correct == is_correct)
        and filters.model_version in (None, row.model_version)
        and filters.visitor in (None, row.visitor)
        and (filters.since is None or row.created_at >= filters.since)
        and (filters.until is None or row.created_at < filters.until)
    )


def _daily(rows: Sequence[Row]) -> Counter[Any]:
    return Counter(
        (row.made.created_at.date().isoformat(), row.made.model_version, row.made.predicted_digit)
        for row in rows
    )


def _labels(rows: Sequence[Row], seen: dict[str, set[int | None]]) -> Counter[Any]:
    return Counter(
        (version.model_version, version.predicted_digit, version.true_digit)
        for row in rows
        for version in row.versions(seen[row.made.id])
        if version.true_digit is not None
    )


@contextmanager
def _outboxes(folder: Path) -> Iterator[list[FaultySqlite]]:
    outboxes = [FaultySqlite(folder / f"outbox{number}" / "outbox.db") for number in range(2)]
    yield outboxes
    for outbox in outboxes:
        outbox.close()


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_store_keeps_its_promises(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    database: FaultySqlite | FaultyPostgres
    if kind == "sqlite":
        database = FaultySqlite(tmp_path / "database" / "predictions.db")
    else:
        postgres = request.getfixturevalue("postgres")
        database = FaultyPostgres(new_database(postgres), postgres("postgres"))
    with _outboxes(tmp_path) as outboxes:
        run_state_machine_as_test(
            lambda: Stores(World(database, outboxes)),  # type: ignore[arg-type]  # it may be one
            settings=settings(
                max_examples=request.config.getoption("--sequences"),
                stateful_step_count=request.config.getoption("--steps"),
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
                print_blob=True,
            ),
        )
    database.close()
