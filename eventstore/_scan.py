"""The child process of `verify`: what is compared, and how.

Every record is read once, in log order, in bounded transactions. As pointers only go back, one pass suffices: per
stream it carries the version, position, digest and spine that the stream's next event must build on. Then the tables
are held against what the pass saw. A record whose header is damaged cannot say whose it is: the event behind it, or the
stream's head, tells.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from eventstore import _chain
from eventstore import _layout as layout
from eventstore import _scan_tables as tables
from eventstore._files import SharedLock
from eventstore._layout import DamagedRecord, Header
from eventstore._lineage import (
    Spine,
    find_position,
    get_event,
    get_facts,
    get_head,
    get_record,
    jump_of_next,
    last_position,
    load_spine,
)
from eventstore._lmdb import Environment, check_structure
from eventstore._reader import Reader
from eventstore.errors import (
    CorruptEventError,
    CorruptLogError,
    EventStoreError,
    NewerFormatError,
    StreamDeletedError,
    StreamNotFoundError,
)
from eventstore.log import NO_DIGEST
from eventstore.verify import Finished, Found, Problem, Progress, Refused, Report, Task

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventstore._lmdb import Transaction

_PAGE_RECORDS: Final = 1_000
_PAGE_BYTES: Final = 16 * 2**20
_FINDINGS: Final = (CorruptLogError, CorruptEventError, NewerFormatError, StreamNotFoundError, StreamDeletedError)
_ENDINGS: Final = (signal.SIGTERM, signal.SIGINT)


def main() -> None:
    """Carry out the task on standard input, and tell of it on standard output, a message a line. A signal that ends it
    lets it close the log first: what a dead reader was reading stays in the file until somebody notices.
    """
    for number in _ENDINGS:
        signal.signal(number, _stop)
    try:
        _carry_out(msgspec.json.decode(sys.stdin.buffer.read(), type=Task))
    except _Stopped as stopped:
        signal.signal(stopped.number, signal.SIG_DFL)
        signal.raise_signal(stopped.number)


class _Stopped(BaseException):
    """A signal came."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _stop(number: int, _frame: object) -> None:
    for each in _ENDINGS:  # a second one must not keep the log from being closed
        signal.signal(each, signal.SIG_IGN)
    raise _Stopped(number)


def _carry_out(task: Task) -> None:
    try:
        _tell(Finished(scan(task, _tell)))
    except EventStoreError as error:
        path, reason = error.args  # of those about a path; any other is a mistake of ours
        _tell(Refused(type(error).__name__, path, reason))


def _tell(message: Progress | Found | Finished | Refused) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
    sys.stdout.buffer.flush()


class Trail:
    """How far the pass has come in one stream: what its next event must build on."""

    __slots__ = ("commit_id", "digest", "forked_at", "index", "known", "position", "spine", "version")

    def __init__(self) -> None:
        self.version = 0
        self.position = 0
        self.digest: bytes | None = NO_DIGEST  # None: the event it belongs to is damaged
        self.spine: Spine | None = None
        self.known = True  # whether the spine was built or loaded
        self.forked_at = 0
        self.commit_id = b""
        self.index = -1


class Scan:
    """One verification: the environment, what was seen, and where problems go."""

    def __init__(self, environment: Environment, log_id: bytes, report: Callable[[Problem], None]) -> None:
        self.environment = environment
        self.reader = Reader(log_id)
        self.report = report
        self.trails: dict[int, Trail] = {}
        self.names: dict[int, bytes] = {}
        self.damaged: dict[int, str] = {}  # position -> what is wrong with the header there
        self.end = 0
        self.events = 0
        self.bytes = 0

    # ------------------------------------------------------------------------------------------ the whole log

    def read_log(self, progress: Callable[[int, int], None]) -> None:
        """Compare every record up to the one that is the newest now."""
        self.end = self.environment.read(last_position)
        position = 0
        while position < self.end:
            here = position
            position = self.environment.read(lambda transaction: self._read_page(transaction, here))  # noqa: B023
            progress(min(position, self.end), self.end)

    def _read_page(self, transaction: Transaction, after: int) -> int:
        cursor = transaction.cursor()
        found = cursor.set_range(layout.log_key(after + 1) if after else layout.LOG)
        size = count = 0
        while found and count < _PAGE_RECORDS and size < _PAGE_BYTES:
            key = bytes(cursor.key())
            if not key.startswith(layout.LOG):
                return self.end
            count += 1
            if len(key) != layout.LOG_KEY_BYTES:
                self.report(Problem("structure", f"a row {key!r} that belongs to no table"))
            else:
                after = layout.key_position(key)
                if after > self.end:
                    break
                value = cursor.value()
                size += len(value)
                self._read_record(transaction, after, value)
            found = cursor.next()
        return after if found else self.end

    def _read_record(self, transaction: Transaction, position: int, value: memoryview) -> None:
        try:
            header = layout.unpack_header(position, value)
            self.name_of(transaction, header.stream)
        except DamagedRecord as error:
            self.damaged[position] = str(error)
            return
        match header.kind:
            case layout.EVENT:
                trail = self.trails.setdefault(header.stream, Trail())
                self.check_event(transaction, trail, position, header, value)
            case layout.FORKED:
                self._check_fork(transaction, position, header, value)
            case _:
                pass  # deletions are held against their facts row (`_scan_tables`)

    def name_of(self, transaction: Transaction, number: int) -> bytes:
        """The name of a stream. Raises `DamagedRecord`."""
        name = self.names.get(number)
        if name is None:
            name = self.names[number] = get_facts(transaction, number).name
        return name

    def problem(self, kind: str, reason: str, number: int, version: int = 0, position: int = 0) -> None:
        """Report a problem of the stream with this number."""
        name = self.names.get(number)
        self.report(Problem(kind, reason, name.decode(errors="replace") if name else None, version, position))

    def check_event(
        self, transaction: Transaction, trail: Trail, position: int, header: Header, value: memoryview
    ) -> None:
        """Hold an event against the trail of its lineage, and move the trail to it."""
        self.events += 1
        self.bytes += header.meta_length + header.data_length
        if header.previous != trail.position and header.previous in self.damaged:
            self._place_damage(trail, header)
        version = trail.version + 1
        place = (header.stream, header.version, position)
        if header.version != version or header.previous != trail.position:
            self.problem("lineage", f"it follows version {trail.version}, not {header.version - 1}", *place)
        if (
            trail.digest is not None
            and _digest(header, value, self.names[header.stream], trail.digest) != header.digest
        ):
            self.problem("digest", "its digest is not that of its content", *place)
        jump = jump_of_next(self._spine(transaction, trail))
        if trail.known and header.jump != (jump[1] if jump else 0):
            self.problem("lineage", "its jump pointer leads elsewhere", *place)
        self._check_commit(trail, header, place)
        trail.version, trail.position, trail.digest = header.version, position, header.digest
        trail.spine = (header.version, position, jump)
        trail.commit_id, trail.index = header.commit_id, header.commit_index

    def _check_commit(self, trail: Trail, header: Header, place: tuple[int, int, int]) -> None:
        goes_on = header.commit_id == trail.commit_id and header.commit_index == trail.index + 1
        begins = header.commit_index == 0
        if not header.commit_index < header.commit_size or not (goes_on or begins or trail.digest is None):
            self.problem("lineage", "its place in its commit is impossible", *place)

    def _spine(self, transaction: Transaction, trail: Trail) -> Spine | None:
        if not trail.known:
            try:
                trail.spine = load_spine(transaction, trail.position, trail.version)
                trail.known = True
            except DamagedRecord:
                return None  # the damage is reported where it is
        return trail.spine

    def _place_damage(self, trail: Trail, header: Header) -> None:
        """The record before *header*'s is damaged: now it is known whose it was."""
        self._say_damaged(header.previous, header.stream, header.version - 1)
        trail.version, trail.position, trail.digest, trail.known = header.version - 1, header.previous, None, False

    def _say_damaged(self, position: int, number: int, version: int) -> None:
        self.problem("record", self.damaged.pop(position), number, version, position)

    def _check_fork(self, transaction: Transaction, position: int, header: Header, value: memoryview) -> None:
        trail = self.trails[header.stream] = Trail()
        trail.version, trail.position, trail.forked_at = header.version, header.previous, header.version
        trail.known = not header.version
        try:
            self.name_of(transaction, header.stream)
            if header.version:
                trail.digest = None  # until the event it was forked from is found sound
                trail.digest = get_event(transaction, header.previous, header.version)[0].digest
                if self._leaves_lineage(transaction, layout.parent_of(value), header):
                    reason = "it was forked from an event its parent does not have"
                    self.problem("lineage", reason, header.stream, 0, position)
        except DamagedRecord as error:
            if not self._is_deleted(transaction, header.stream):  # what it needed of its parent may be erased
                self.problem("lineage", f"its parent's events are damaged: {error}", header.stream, 0, position)

    def _leaves_lineage(self, transaction: Transaction, number: int, header: Header) -> bool:
        """Whether a fork's event is not in the lineage of its parent, which can be told while that is living: a deleted
        one may have lost the events that lead down to the fork point.
        """
        parent = self.trails.get(number)
        if parent is None or get_facts(transaction, number).deleted:
            return False
        where = find_position(transaction, parent.position, parent.version, header.version)
        return where != header.previous

    def _is_deleted(self, transaction: Transaction, number: int) -> bool:
        try:
            return bool(get_facts(transaction, number).deleted)
        except DamagedRecord:
            return False

    # --------------------------------------------------------------------------------------------- one stream

    def read_stream(self, stream: str, progress: Callable[[int, int], None]) -> None:
        """Compare the lineage of one stream only."""
        number = self.environment.read(lambda transaction: self.reader.find(transaction, stream))
        positions = self._positions(stream, number)
        trail = Trail()
        for start in range(0, len(positions), _PAGE_RECORDS):
            page = positions[start : start + _PAGE_RECORDS]
            if not self.environment.read(lambda t: self._read_events(t, number, trail, page)):  # noqa: B023
                return
            progress(start + len(page), len(positions))

    def _positions(self, stream: str, number: int) -> list[int]:
        """The positions of the lineage, oldest first; none if they cannot all be reached: that is reported, unless the
        stream is being deleted.
        """
        positions: list[int] = []
        place: tuple[int, int] | None = None

        def walk(transaction: Transaction) -> bool:
            nonlocal place
            try:
                position, version = place or get_head(transaction, number)
                for _ in range(min(version, _PAGE_RECORDS)):
                    header, _ = get_event(transaction, position, version)
                    positions.append(position)
                    position, version = header.previous, version - 1
            except DamagedRecord as error:
                positions.clear()
                if not self._is_deleted(transaction, number):  # since it was found, and erased
                    kind = "record" if error.version else "head"
                    self.report(Problem(kind, str(error), stream, error.version, error.position))
                return False
            place = (position, version)
            return version > 0

        while self.environment.read(walk):
            pass
        return positions[::-1]

    def _read_events(self, transaction: Transaction, number: int, trail: Trail, positions: list[int]) -> bool:
        """Compare a page of the lineage of stream *number*; whether it is worth going on."""
        for position in positions:
            try:
                header, value = get_record(transaction, position)
            except DamagedRecord as error:
                if not self._is_deleted(transaction, number):
                    self.problem("record", str(error), number, trail.version + 1, position)
                return False
            self.name_of(transaction, header.stream)
            if header.commit_index:  # a fork point can lie within a commit
                trail.commit_id, trail.index = header.commit_id, header.commit_index - 1
            self.check_event(transaction, trail, position, header, value)
        return True


def scan(task: Task, tell: Callable[[Progress | Found], None]) -> Report:
    """Verify what *task* says, in a log that this process does not have open. Raises what keeps it from looking."""
    path = Path(task.path)
    try:
        lock = SharedLock(path)
        try:
            environment = Environment(path, durability="disk")
            try:
                return scan_environment(environment, task, tell)
            finally:
                environment.close()
        finally:
            lock.close()
    except _FINDINGS as error:
        tell(Found(Problem("open", str(error), task.stream)))
        return Report([])


def scan_environment(environment: Environment, task: Task, tell: Callable[[Progress | Found], None]) -> Report:
    """Verify what *task* says, in an open environment."""
    run = Scan(environment, environment.identity(), lambda problem: tell(Found(problem)))

    def progress(done: int, total: int) -> None:
        tell(Progress(done, total))

    if task.stream is not None:
        run.read_stream(task.stream, progress)
    else:
        for text in _structure(environment):
            run.report(Problem("structure", text))
        run.read_log(progress)
        tables.check_tables(run)
    if task.checkpoint is not None:
        tables.check_checkpoint(run, task.checkpoint, task.stream)
    return Report([], run.events, len(run.trails) or 1, run.bytes)


def _structure(environment: Environment) -> list[str]:
    """What the structural checker says. A read transaction keeps the pages of the newest commit from being reused while
    it walks; what it finds beside a writer is looked at again with the writers held.
    """
    found = environment.read(lambda _: check_structure(environment.path))
    return environment.write(lambda _: check_structure(environment.path)) if found else found


def _digest(header: Header, value: memoryview, name: bytes, previous: bytes) -> bytes:
    meta = layout.HEADER_BYTES + header.type_length
    data = meta + header.meta_length
    type_, committed = bytes(value[layout.HEADER_BYTES : meta]), _chain.commitment(header.salt, value[data:])
    content = _chain.content(type_, bytes(value[meta:data]), committed)
    return _chain.link(previous, header.version, header.time_ns, header.commit_id, _chain.prefixed(name), content)
