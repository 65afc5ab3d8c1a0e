"""A Hypothesis state machine that does the same to a log and to `MemoryEventLog`, and compares all that they show.

    TestMyLog = log_machine(open_my_log, persistent=True).TestCase

Both logs are given one clock, which only the machine moves, and one entropy, whose bytes are all alike: so salts, and
with them digests, must be equal however an engine draws them. Positions may differ, for an engine may leave gaps; they
are compared by the order in which they come.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, TypeAlias, TypeVar

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from eventstore.errors import EventStoreError, InvalidCursorError, RestoreError, WrongVersionError
from eventstore.log import START, Commit, Deletion, Event, EventLog, Expected, Forked, Head, NewEvent, Position, export
from eventstore.memory import MemoryEventLog
from eventstore.testing.contract_base import all_heads, check_log, everything, take

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


T = TypeVar("T")
Outcome: TypeAlias = "T | EventStoreError | ValueError"

STREAMS: Final = ("a", "b", "c", "d", "e", "f", "größe", "h/1", "h/2", "x" * 40)
BEGINNING: Final = 1_700_000_000_000_000_000

names = st.sampled_from(STREAMS)
picks = st.one_of(names, st.integers(0, 9), st.integers(0, 9))  # a name, or the number of one that is, or is not, taken
versions = st.integers(0, 12)
small = st.integers(0, 40)
contents = st.binary(max_size=3)
events_to_append = st.lists(
    st.builds(NewEvent, type=st.sampled_from(["said", "größe"]), data=contents, meta=contents), min_size=1, max_size=4
)
events_to_fork_with: st.SearchStrategy[list[NewEvent]] = st.one_of(st.builds(list), events_to_append)
expectations = st.sampled_from([Expected.ANY, Expected.ANY, Expected.EXISTS, Expected.NO_STREAM])
misses = st.sampled_from([0, 0, 0, 0, -1, 1, -3])  # how far a numbered expectation is off


class OpenLog(Protocol):
    """Opens a log at a path, as `EventLogContract.open` does."""

    def __call__(self, path: Path, *, clock: Callable[[], int], entropy: Callable[[int], bytes]) -> EventLog:
        """A log at *path*, or what a closed one left there."""
        ...


class LogCheck(Protocol):
    """Raises if a log, still open, is damaged."""

    def __call__(self, log: EventLog) -> Awaitable[None]:
        """Look at *log* as deep as its engine can."""
        ...


def log_machine(
    open_log: OpenLog, *, persistent: bool = False, check: LogCheck | None = None
) -> type[RuleBasedStateMachine]:
    """A state machine for the logs that *open_log* opens.

    *persistent*: a log opened where one was closed holds what that held; then closing and opening is among the rules.
    *check* is called at the end of every run, with the log still open.
    """
    options: dict[str, Any] = {"open_log": staticmethod(open_log), "persistent": persistent}
    if check is not None:
        options["check"] = staticmethod(check)
    return type("LogMachine", (LogMachine,), options)


class _Pair:
    """A log and its oracle, and the positions that both handed out: the log's, and the oracle's for the same record."""

    def __init__(self, log: EventLog, oracle: EventLog) -> None:
        self.log = log
        self.oracle = oracle
        self.positions: list[tuple[Position, Position]] = [(START, START)]

    async def both(self, ask: Callable[[EventLog], Awaitable[T]]) -> Outcome[T]:
        """Ask both the same; what they answer, or raise, must be equal. Returns the oracle's answer."""
        found, wanted = await _outcome(ask(self.log)), await _outcome(ask(self.oracle))
        assert _plain(found) == _plain(wanted)
        if isinstance(found, Commit | Head) and isinstance(wanted, Commit | Head):
            self.positions.append((found.position, wanted.position))
        return wanted

    async def compare(self) -> None:
        """Everything that both show."""
        await self.log.erase()
        await self.oracle.erase()
        await self.both(everything)
        for limit in (1, 3, 100):
            await self.both(lambda log: all_heads(log, limit))  # noqa: B023  (awaited at once)
        for head in await all_heads(self.oracle):
            stream = head.stream
            await self.both(lambda log: log.read(stream, verify=True))  # noqa: B023  (awaited at once)
            await self.both(lambda log: log.children(stream))  # noqa: B023
        await self.both(_checkpoint)


class LogMachine(RuleBasedStateMachine):
    """See `log_machine`."""

    open_log: ClassVar[OpenLog]
    persistent: ClassVar[bool] = False

    @staticmethod
    async def check(log: EventLog) -> None:
        """Nothing more than `check_log`, unless the factory was given a check."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.directory = tempfile.TemporaryDirectory(prefix="log-machine-")
        self.now = BEGINNING
        self.commit_ids = (number.to_bytes(16, "big") for number in itertools.count(1))
        self.steps = 0
        self.touched = STREAMS[0]
        self.appended: list[tuple[str, list[NewEvent], int, bytes]] = []
        self.forked: list[tuple[str, str, int | None, list[NewEvent], bytes]] = []
        self.main = self.open_pair("main")
        self.restored = self.open_pair("restored")

    def open_pair(self, name: str) -> _Pair:
        """A new log, and its oracle."""
        return _Pair(self.open_at(name), MemoryEventLog(clock=lambda: self.now, entropy=_all_alike))

    def open_at(self, name: str) -> EventLog:
        """The log under test, in the machine's own directory."""
        return type(self).open_log(Path(self.directory.name) / name, clock=lambda: self.now, entropy=_all_alike)

    def run(self, asked: Awaitable[T]) -> T:
        """What *asked* comes to."""
        return self.loop.run_until_complete(asked)  # not asyncio.Runner: that costs more than an append

    def both(self, ask: Callable[[EventLog], Awaitable[T]], pair: _Pair | None = None) -> Outcome[T]:
        """See `_Pair.both`."""
        return self.run((pair or self.main).both(ask))

    def version(self, stream: str) -> int:
        """What the oracle says of *stream*; 0 if it is missing or deleted."""
        head = self.run(_outcome(self.main.oracle.head(stream)))
        return head.version if isinstance(head, Head) else 0

    def new_commit_id(self) -> bytes:
        """An id that was not used before. Time passes, so that a commit can be told from the next by its time, too."""
        self.now += 1
        return next(self.commit_ids)

    def one_living(self, pick: str | int) -> str:
        """The stream picked: by name, or by number among those that live."""
        living = sorted(head.stream for head in self.run(all_heads(self.main.oracle)))
        return pick if isinstance(pick, str) else living[pick % len(living)] if living else STREAMS[0]

    def one_unused(self, pick: str | int) -> str:
        """The stream picked: by name, or by number among those that never were."""
        used = {record.stream for record in self.run(everything(self.main.oracle))}
        unused = [name for name in STREAMS if name not in used]
        return pick if isinstance(pick, str) else unused[pick % len(unused)] if unused else STREAMS[0]

    @initialize()
    def begin(self) -> None:
        """Two streams, a fork in the middle of a commit, and a fork of the fork that reaches back beyond it."""
        first = [NewEvent("begun", b"%d" % number) for number in range(4)]
        self.append_to_both("a", first[:1], 0, self.new_commit_id())
        self.append_to_both("a", first[1:], 1, self.new_commit_id())
        self.append_to_both("b", first, Expected.ANY, self.new_commit_id())
        self.fork_both("a", "c", 3, first, self.new_commit_id())
        self.fork_both("c", "d", 2, [], self.new_commit_id())

    # --- appending

    def append_to_both(self, stream: str, events: list[NewEvent], expected: int, commit_id: bytes) -> None:
        """Append, and remember it for a repetition if it was done."""
        self.touched = stream
        outcome = self.both(lambda log: log.append(stream, events, expected=expected, commit_id=commit_id))
        if isinstance(outcome, Commit):
            self.appended.append((stream, events, expected, commit_id))

    @rule(stream=names, events=events_to_append, expected=expectations)
    def append(self, stream: str, events: list[NewEvent], expected: int) -> None:
        self.append_to_both(stream, events, expected, self.new_commit_id())

    @rule(stream=names, events=events_to_append, miss=misses)
    def append_at_a_version(self, stream: str, events: list[NewEvent], miss: int) -> None:
        self.append_to_both(stream, events, max(0, self.version(stream) + miss), self.new_commit_id())

    @rule(which=small, count=st.sampled_from([100, 253, 254, 255, 256, 257]))
    def append_many_behind_an_append_and_repeat_it(self, which: int, count: int) -> None:
        """Whether it is repeated or written anew turns on how recent it is (P4)."""
        stream, events, _, commit_id = self.appended[-1 - which % len(self.appended)]
        many = [NewEvent("counted", b"%d" % number) for number in range(count)]
        self.append_to_both(stream, many, Expected.ANY, self.new_commit_id())
        self.append_to_both(stream, events, Expected.ANY, commit_id)

    @rule(which=small, expected=st.one_of(st.none(), expectations, versions), by_a_fork=st.booleans())
    def repeat_an_append(self, which: int, expected: int | None, by_a_fork: bool) -> None:
        """To the stream itself, or to a fork of it, which may have inherited the first."""
        stream, events, first_expected, commit_id = self.appended[-1 - which % len(self.appended)]
        forks = [child for parent, child, *_ in self.forked if parent == stream]
        if by_a_fork and forks:
            stream = forks[which % len(forks)]
        self.append_to_both(stream, events, first_expected if expected is None else expected, commit_id)

    @rule(which=small, events=events_to_append, same_place=st.booleans())
    def reuse_a_commit_id(self, which: int, events: list[NewEvent], same_place: bool) -> None:
        stream, first, expected, commit_id = self.appended[-1 - which % len(self.appended)]
        if same_place:
            events = [*first[:-1], events[0]]
        else:
            expected = self.version(stream)
        self.append_to_both(stream, events, expected, commit_id)

    @rule(stream=names, racers=st.integers(2, 5), numbered=st.booleans())
    def race(self, stream: str, racers: int, numbered: bool) -> None:
        """Appends at the same time: the log chooses the order, and the oracle follows."""
        self.touched = stream
        commit_ids = [self.new_commit_id() for _ in range(racers)]
        expected = self.version(stream) if numbered else Expected.ANY

        async def attempt(log: EventLog, commit_id: bytes) -> Commit:
            return await log.append(stream, [NewEvent("raced", commit_id)], expected=expected, commit_id=commit_id)

        async def start() -> list[Outcome[Commit]]:
            return await asyncio.gather(*(_outcome(attempt(self.main.log, commit_id)) for commit_id in commit_ids))

        outcomes = dict(zip(commit_ids, self.run(start()), strict=True))
        won = [outcome for outcome in outcomes.values() if isinstance(outcome, Commit)]
        for commit in sorted(won, key=lambda commit: commit.version):
            in_turn = self.run(attempt(self.main.oracle, commit.commit_id))
            assert _plain(in_turn) == _plain(commit)
        for commit_id, outcome in outcomes.items():
            if not isinstance(outcome, Commit):
                late = self.run(_outcome(attempt(self.main.oracle, commit_id)))
                assert _plain(late) == _plain(outcome)
                assert not numbered or won or not isinstance(outcome, WrongVersionError), "one of them must win"

    # --- forking, deleting

    def fork_both(self, parent: str, child: str, at: int | None, events: list[NewEvent], commit_id: bytes) -> None:
        """Fork, and remember it for a repetition if it was done."""
        self.touched = child
        outcome = self.both(lambda log: log.fork(parent, child, at=at, events=events, commit_id=commit_id))
        if isinstance(outcome, Head):
            self.forked.append((parent, child, at, events, commit_id))

    @rule(parent=picks, child=picks, at=st.one_of(st.none(), versions), events=events_to_fork_with)
    def fork(self, parent: str | int, child: str | int, at: int | None, events: list[NewEvent]) -> None:
        parent, child = self.one_living(parent), self.one_unused(child)
        if at is not None:
            at %= self.version(parent) + 2  # one of them is not there
        self.fork_both(parent, child, at, events, self.new_commit_id())

    @rule(which=small, change=st.sampled_from(["", "", "at", "events", "parent"]), at=st.one_of(st.none(), versions))
    def repeat_a_fork(self, which: int, change: str, at: int | None) -> None:
        parent, child, first_at, events, commit_id = self.forked[which % len(self.forked)]
        if change == "":
            self.append_to_both(child, [NewEvent("later", b"")], Expected.ANY, self.new_commit_id())
        self.fork_both(
            child if change == "parent" else parent,
            child,
            at if change == "at" else first_at,
            [*events, NewEvent("more", b"")] if change == "events" else events,
            commit_id,
        )

    @rule(
        stream=picks,
        expected=st.sampled_from([Expected.ANY, Expected.ANY, Expected.EXISTS, 0, 3]),
        forked=st.booleans(),
    )
    def delete(self, stream: str | int, expected: int, forked: bool) -> None:
        """Any stream, or one that was forked."""
        if forked and isinstance(stream, int):
            name = self.forked[stream % len(self.forked)][0]
        else:
            name = self.one_living(stream)
        for reason in ("first", "again"):
            self.both(lambda log: log.delete(name, expected=expected, reason=reason, actor="who"))  # noqa: B023

    @rule()
    def erase_and_compare_everything(self) -> None:
        self.run(self.main.compare())

    # --- reading

    @rule(which=small, limit=versions)
    def read_all(self, which: int, limit: int) -> None:
        self.run(self.read_on(which, limit))

    async def read_on(self, which: int, limit: int) -> None:
        """Read, and follow, the whole log from a position that was handed out before."""
        pair = self.main
        await pair.log.erase()
        await pair.oracle.erase()
        after, oracles = pair.positions[-1 - which % len(pair.positions)]
        wanted = await pair.oracle.read_all(after=oracles, limit=limit)
        assert _plain(await pair.log.read_all(after=after, limit=limit)) == _plain(wanted)
        assert _plain(await take(aiter(pair.log.follow(after=after)), len(wanted))) == _plain(wanted)

    @rule(stream=picks, name=st.sampled_from(["state", "größe"]), revision=st.integers(1, 2), version=versions)
    def put_snapshot(self, stream: str | int, name: str, revision: int, version: int) -> None:
        stream = self.one_living(stream)
        data = b"%d" % version
        self.both(lambda log: _refusal_of_a_version(log.put_snapshot(stream, name, revision, version, data)))
        for asked in (1, 2):
            self.both(lambda log: log.get_snapshot(stream, name, asked))  # noqa: B023  (awaited at once)
            self.both(lambda log: _since_snapshot(log, stream, name, asked))  # noqa: B023

    # --- restoring

    @rule(stream=picks, where=st.sampled_from(["elsewhere", "elsewhere", "here", "tampered"]), number=small)
    def restore(self, stream: str | int, where: str, number: int) -> None:
        """Restore an export: whole or its beginning, into a log that holds restored streams only; where it came from;
        or after changing it.
        """
        name = self.one_living(stream)
        records = self.exported(name)
        if not records:
            return
        match where:
            case "elsewhere":
                beginning = records if number % 3 else records[: 1 + number % len(records)]
                target = beginning[-1].stream
                self.both(lambda log: log.restore(target, beginning), self.restored)
            case "here":
                self.both(lambda log: log.restore(name, records))
            case _:
                self.restore_tampered(name, records, number)

    def restore_tampered(self, stream: str, records: list[Event | Forked], number: int) -> None:
        """Change one event, and see it refused."""
        index = number % len(records)
        record = records[index]
        if isinstance(record, Event):
            change = {"salt": bytes(16)} if number % 2 else {"time_ns": record.time_ns + 1}
            tampered = [*records[:index], msgspec.structs.replace(record, **change), *records[index + 1 :]]
            outcome = self.both(lambda log: log.restore(stream, tampered), self.restored)
            assert isinstance(outcome, RestoreError)

    def exported(self, stream: str) -> list[Event | Forked]:
        """The lineage as the log under test exports it; none if there is no such stream."""
        outcome = self.run(_outcome(export(self.main.log, stream)))
        return [] if isinstance(outcome, Exception) else outcome

    # --- time

    @rule(nanoseconds=st.sampled_from([1_000, 10**9, -5]))
    def let_time_pass(self, nanoseconds: int) -> None:
        self.now += nanoseconds

    @precondition(lambda self: self.persistent)
    @rule(name=st.sampled_from(["main", "restored"]))
    def reopen(self, name: str) -> None:
        pair = getattr(self, name)
        self.run(pair.log.aclose())
        pair.log = self.open_at(name)

    # --- what always holds

    @invariant()
    def heads_digests_and_lineages_are_equal(self) -> None:
        self.run(self.compare_what_matters())

    async def compare_what_matters(self) -> None:
        """All heads, and with them digests; the lineage of the stream touched last, and of another, each in turn: all
        lineages at every step would take too long. And a part of it, other bounds at every step.
        """
        self.steps += 1
        low, high = self.steps % 3, self.steps % 5
        for stream in STREAMS:
            await self.main.both(lambda log: log.head(stream))  # noqa: B023  (awaited at once, as below)
        for stream in {self.touched, STREAMS[self.steps % len(STREAMS)]}:
            await self.main.both(lambda log: log.read(stream))  # noqa: B023
            await self.main.both(lambda log: log.read(stream, after=low, upto=high, verify=True))  # noqa: B023
            await self.main.both(lambda log: log.read(stream, upto=high, limit=low, reverse=True))  # noqa: B023

    def teardown(self) -> None:
        try:
            self.run(self.finish())
        finally:
            self.run(self.main.log.aclose())
            self.run(self.restored.log.aclose())
            self.loop.close()
            self.directory.cleanup()

    async def finish(self) -> None:
        """Compare everything once more, and have the log checked."""
        for pair in (self.main, self.restored):
            await pair.compare()
            await check_log(pair.log)
            await type(self).check(pair.log)


def _all_alike(count: int) -> bytes:
    return b"\x07" * count


async def _outcome(asked: Awaitable[T]) -> Outcome[T]:
    try:
        return await asked
    except (EventStoreError, ValueError) as error:
        return error


async def _refusal_of_a_version(asked: Awaitable[None]) -> str | None:
    """That, and not why, a version was refused."""
    try:
        await asked
    except ValueError:
        return "refused"
    return None


async def _since_snapshot(log: EventLog, stream: str, name: str, revision: int) -> object:
    """`since_snapshot`, with the contents that an engine may leave out where they are many."""
    found = await log.since_snapshot(stream, name, revision)
    if found is None or found.contents:
        return found
    return msgspec.structs.replace(found, contents=await log.contents(stream, after=found.snapshot.version))


async def _checkpoint(log: EventLog) -> object:
    checkpoint = await log.checkpoint()
    return checkpoint.time_ns, sorted(checkpoint.entries, key=lambda entry: entry.stream)


def _plain(value: object) -> object:
    """What must be equal in *value*: not positions, nor the words in which an error gives its reason."""
    if isinstance(value, RestoreError | InvalidCursorError):
        return type(value)
    if isinstance(value, EventStoreError):
        return type(value), {name: fact for name, fact in vars(value).items() if name != "reason"}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, Head | Commit | Event | Forked | Deletion):
        value = msgspec.structs.replace(value, position=START)
    if isinstance(value, Head) and value.forked:
        value = msgspec.structs.replace(value, forked=_plain(value.forked))
    return value
