"""What no log can take is refused by name, in the caller's hands, before anything is written; so are bad paths."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import lmdb
import msgspec
import pytest

from eventstore import (
    BlockingLmdbEventLog,
    Event,
    EventLog,
    EventStoreError,
    EventTooLargeError,
    Forked,
    InvalidEventError,
    InvalidPathError,
    InvalidStreamNameError,
    LmdbEventLog,
    LogInUseError,
    LogNotFoundError,
    LogUnavailableError,
    MemoryEventLog,
    NewEvent,
    RestoreError,
)
from eventstore.log import MAX_SNAPSHOT_BYTES, export
from eventstore.verify import verify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

GOOD = [NewEvent("type", b"data")]
NO_FIELDS: list[Any] = [("type", "text"), (b"type", b""), ("type", b"", None), (None, b""), ("", b"")]
BAD_EVENTS: list[Any] = [
    None, 7, GOOD[0], iter(GOOD), "text", [None], [b"data"], [{"type": "type"}], [("type", b"data")],
    *([NewEvent(*fields)] for fields in NO_FIELDS),
]  # fmt: skip
BAD_VERSIONS: list[Any] = [True, 1.0, "1", b"1", [], 2**70, -1]
NOT_VERSIONS: list[Any] = [True, 1.0, "1", b"1", []]
BAD_NAMES: list[Any] = [None, 7, b"stream", ("stream",), ["stream"]]

Call = tuple[type[Exception], str, tuple[Any, ...], dict[str, Any]]


def bad_writes() -> Iterator[Call]:
    """The error that is wanted, the method, and what it is given."""
    for events in BAD_EVENTS:
        yield InvalidEventError, "append", ("s", events), {}
        yield InvalidEventError, "fork", ("s", "t"), {"events": events}
    for version in [True, 1.0, "1", None, 2**70, -3]:
        yield InvalidEventError, "append", ("s", GOOD), {"expected": version}
        yield InvalidEventError, "delete", ("s",), {"expected": version}
    for at in NOT_VERSIONS:
        yield InvalidEventError, "fork", ("s", "t"), {"at": at}
    for commit_id in ["0" * 16, bytearray(16), 7, b"", b"short"]:
        yield InvalidEventError, "append", ("s", GOOD), {"commit_id": commit_id}
        yield InvalidEventError, "fork", ("s", "t"), {"commit_id": commit_id}
    for text in [None, b"bytes", 7, "\ud800"]:
        yield InvalidEventError, "delete", ("s",), {"reason": text}
        yield InvalidEventError, "delete", ("s",), {"actor": text}


def bad_snapshots() -> Iterator[Call]:
    for version in BAD_VERSIONS:
        yield ValueError, "put_snapshot", ("s", "fold", 1, version, b""), {}
    for revision in [*BAD_VERSIONS, None]:
        yield ValueError, "put_snapshot", ("s", "fold", revision, 1, b""), {}
        yield ValueError, "get_snapshot", ("s", "fold", revision), {}
        yield ValueError, "since_snapshot", ("s", "fold", revision), {}
    for name in ["", "x" * 65, "\ud800", b"fold", None, 7]:
        yield ValueError, "put_snapshot", ("s", name, 1, 1, b""), {}
        yield ValueError, "get_snapshot", ("s", name, 1), {}
        yield ValueError, "since_snapshot", ("s", name, 1), {}
    for data in ["text", None, bytearray(3), memoryview(b"data")]:
        yield ValueError, "put_snapshot", ("s", "fold", 1, 1, data), {}
    yield EventTooLargeError, "put_snapshot", ("s", "fold", 1, 1, bytes(MAX_SNAPSHOT_BYTES + 1)), {}


def bad_reads() -> Iterator[Call]:
    for version in [*NOT_VERSIONS, -1]:
        for name in ("after", "upto", "limit"):
            yield ValueError, "read", ("s",), {name: version}
        yield ValueError, "since_snapshot", ("s", "fold", 1), {"upto": version}
        yield ValueError, "read_all", (), {"limit": version}
        yield ValueError, "streams", (), {"limit": version}
    for stream in BAD_NAMES:
        for method in ("head", "read", "children", "delete"):
            yield InvalidStreamNameError, method, (stream,), {}
        yield InvalidStreamNameError, "append", (stream, GOOD), {}
        yield InvalidStreamNameError, "fork", ("s", stream), {}
        yield InvalidStreamNameError, "get_snapshot", (stream, "fold", 1), {}
        yield InvalidStreamNameError, "since_snapshot", (stream, "fold", 1), {}


@pytest.mark.parametrize("engine", ["lmdb", "memory"])
def test_what_is_no_argument_is_refused_and_nothing_is_written(engine: str, tmp_path: Path) -> None:
    async def main() -> None:
        log: EventLog = LmdbEventLog(tmp_path / "log", durability="os") if engine == "lmdb" else MemoryEventLog()
        async with log:
            await log.append("s", GOOD, expected=0)
            for wanted, method, arguments, options in [*bad_writes(), *bad_snapshots(), *bad_reads()]:
                with pytest.raises((ValueError, TypeError, EventStoreError)) as caught:
                    await getattr(log, method)(*arguments, **options)
                said = f"{method}{ascii(arguments)[:100]}, {options}: {caught.value!r}"
                assert isinstance(caught.value, wanted), said
            assert len(await log.read_all()) == 1
            await log.append("s", GOOD, expected=1)
            await log.put_snapshot("s", "x" * 64, 2**32 - 1, 2, bytes(MAX_SNAPSHOT_BYTES))

    asyncio.run(main())


# ----------------------------------------------------------------------------------------------- clock and entropy


def test_a_time_before_1970_is_a_time_in_every_log(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            LmdbEventLog(tmp_path / "log", durability="os", clock=lambda: -5, entropy=bytes) as log,
            MemoryEventLog(clock=lambda: -5, entropy=bytes) as memory,
        ):
            commits = [await each.append("s", GOOD) for each in (log, memory)]
            assert commits[0].time_ns == -5
            assert commits[0].digest == commits[1].digest
            async with MemoryEventLog() as third:
                assert (await third.restore("s", await log.read("s"))).digest == commits[0].digest

    asyncio.run(main())


@pytest.mark.parametrize("now", [2**63, -(2**63) - 1, 1.0, None, True, "now"])
def test_a_clock_that_gives_no_time_is_an_error_and_nothing_is_written(now: Any, tmp_path: Path) -> None:
    times = [1, now, now, now, now, 2]
    with BlockingLmdbEventLog(tmp_path / "log", durability="os", clock=lambda: times.pop(0)) as log:
        log.append("s", GOOD)
        uses: list[Callable[[], object]] = [
            lambda: log.append("new", GOOD),
            lambda: log.fork("s", "fork"),
            lambda: log.delete("s"),
            log.checkpoint,
        ]
        for use in uses:
            with pytest.raises(InvalidEventError, match="clock"):
                use()
        assert log.append("s", GOOD, expected=1).time_ns == 2
        assert [head.stream for head in log.streams().items] == ["s"]


@pytest.mark.parametrize("give", [lambda n: bytes(n - 1), lambda n: bytes(n + 1), lambda n: "x" * n, lambda _: None])
def test_entropy_that_gives_something_else_is_an_error(give: Callable[[int], Any], tmp_path: Path) -> None:
    with pytest.raises(InvalidEventError, match="entropy"):
        BlockingLmdbEventLog(tmp_path / "log", durability="os", entropy=give)
    assert list(tmp_path.iterdir()) == []
    sources = [os.urandom]

    def entropy(count: int) -> bytes:
        return sources[-1](count)

    with BlockingLmdbEventLog(tmp_path / "log", durability="os", entropy=entropy) as log:
        sources.append(give)
        for use in (lambda: log.append("s", GOOD), lambda: log.fork("s", "t")):
            with pytest.raises(InvalidEventError, match="entropy"):
                use()
        log.backup(tmp_path / "backup")
        assert log.read_all() == []


# -------------------------------------------------------------------------------------------------------- restoring


def test_what_is_no_exported_record_is_not_restored(tmp_path: Path) -> None:
    with BlockingLmdbEventLog(tmp_path / "log", durability="os") as log:
        log.append("s", [*GOOD, *GOOD])
        log.fork("s", "t", at=1, events=GOOD)
        marker = next(record for record in log.read_all() if isinstance(record, Forked))
        first, second = log.read("s")
        own = log.read("t")[1]
        replace = msgspec.structs.replace
        changes: list[dict[str, Any]] = [
            {name: None} for name in Event.__struct_fields__ if name not in {"position", "stream"}
        ]
        changes += [{name: 1.0} for name in ("version", "time_ns", "commit_index", "commit_size")]
        changes += [{"version": True}, {"time_ns": 2**63}, {"commit_index": 2}, {"commit_size": 0}, {"salt": b""}]
        bad: list[Any] = [None, 7, [None], [log.delete("t")], [log.head("s")], iter([first])]
        bad += [[first, replace(second, **change)] for change in changes]
        forks: list[dict[str, Any]] = [{"at": 1.0}, {"at": True}, {"time_ns": 2**63}, {"commit_id": None}]
        bad_forks = [[first, replace(marker, **change), own] for change in forks]
    with BlockingLmdbEventLog(tmp_path / "other", durability="os") as other:
        for stream, records in [*(("s", records) for records in bad), *(("t", records) for records in bad_forks)]:
            with pytest.raises(RestoreError):
                other.restore(stream, records)
        assert other.read_all() == []
        assert other.restore("t", [first, marker, own]).digest == own.digest
        assert other.restore("s", [first, second]).digest == second.digest


def test_a_commit_whose_places_do_not_fit_together_is_not_restored(tmp_path: Path) -> None:
    """The digest does not cover them: so they are compared with each other."""
    with BlockingLmdbEventLog(tmp_path / "log", durability="os") as log:
        log.append("s", GOOD)
        log.append("s", [*GOOD, *GOOD, *GOOD])
        one, two, three, four = asyncio.run(exported(log))
        replace = msgspec.structs.replace
        bad = [
            [one, replace(two, commit_index=1), three, four],
            [one, two, replace(three, commit_index=2), four],
            [one, two, replace(three, commit_size=2), four],
            [one, two, three, replace(four, commit_index=3, commit_size=4)],
            [replace(one, commit_index=1, commit_size=2), two, three, four],
        ]
    with BlockingLmdbEventLog(tmp_path / "other", durability="os") as other:
        for records in bad:
            with pytest.raises(RestoreError, match="commit"):
                other.restore("s", records)
        assert other.read_all() == []
        other.restore("s", [one, two, three, four])


async def exported(log: BlockingLmdbEventLog) -> list[Event]:
    async with LmdbEventLog(log.path, durability="os") as awaited:
        return [record for record in await export(awaited, "s") if isinstance(record, Event)]


# ------------------------------------------------------------------------------------------------------------ paths


def make_circle(directory: Path) -> Path:
    (directory / "circle").symlink_to(directory / "circle")
    return directory / "circle" / "log"


BAD_PATHS: list[Callable[[Path], Any]] = [
    lambda directory: directory / ("x" * 300),
    lambda directory: directory / ("x" * 300) / "log",
    lambda directory: directory / "/".join(["long"] * 2_000),
    lambda directory: directory / "with\0NUL",
    lambda directory: directory / "with a lone \ud800",
    make_circle,
]


@pytest.mark.parametrize("make", BAD_PATHS)
def test_a_path_that_no_log_can_have_is_an_error(make: Callable[[Path], Any], tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    path = make(tmp_path / "there")
    before = sorted(tmp_path.rglob("*"))
    with BlockingLmdbEventLog(tmp_path / "log", durability="os") as log:
        log.append("s", GOOD)
        uses: list[Callable[[], object]] = [
            lambda: BlockingLmdbEventLog(path),
            lambda: verify(path),
            lambda: log.backup(path),
        ]
        for use in uses:
            with pytest.raises((InvalidPathError, LogNotFoundError)) as caught:
                use()
            assert str(caught.value).isprintable()
    assert sorted(each for each in tmp_path.rglob("*") if "log" not in each.parts) >= before


def test_a_backup_below_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    with BlockingLmdbEventLog(tmp_path / "log", durability="os") as log:
        for target in (tmp_path / "file/backup", tmp_path / "file/more/backup"):
            with pytest.raises(LogNotFoundError):
                log.backup(target)
        with pytest.raises(LogInUseError):
            log.backup(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "no directory"


def test_an_error_before_the_commit_does_not_say_that_an_append_is_in_doubt(tmp_path: Path) -> None:
    with BlockingLmdbEventLog(tmp_path / "log", durability="os") as log:
        log.append("s", GOOD)

        def fail(_: object) -> None:
            raise lmdb.Error("Input/output error")

        with pytest.raises(LogUnavailableError, match="nothing was changed"):
            log.engine.environment.read(fail)
        with pytest.raises(LogUnavailableError, match="nothing was changed"):
            log.engine.environment.write(fail)
        assert log.append("s", GOOD, expected=1).version == 2
