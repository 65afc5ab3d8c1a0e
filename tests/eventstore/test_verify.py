"""`verify` finds every damage, says whose it is, and finds nothing in what is sound."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstore import (
    BlockingLmdbEventLog,
    Checkpoint,
    CheckpointEntry,
    CorruptEventError,
    Event,
    LogInUseError,
    LogNotFoundError,
    LogPermissionError,
    LogUnavailableError,
    NotALogError,
)
from eventstore import _layout as layout
from eventstore._files import SharedLock
from eventstore._lmdb import Environment
from eventstore._scan import Scan, scan
from eventstore.verify import Found, Task, _crash, verify
from tests.eventstore.other_process import OtherProcess, run
from tests.eventstore.rows import changing, copy_of, rows
from tests.eventstore.sample import check, event, fill, flip, place_of, records
from tests.eventstore.test_guards import as_nobody

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

    from tests.eventstore.conftest import OpenLog


REPOSITORY = Path(__file__).parents[2]
T = TypeVar("T")

# ------------------------------------------------------------------------------------------------------ sound logs


def test_a_sound_log_has_no_problems(original: Path) -> None:
    report = verify(original)
    assert report
    assert report.problems == []
    assert report.seconds > 0
    with BlockingLmdbEventLog(original, durability="os") as log:
        events = [record for record in log.read_all(limit=10**6) if isinstance(record, Event)]
    assert report.events == len(events)
    assert report.bytes == sum(len(each.data) + len(each.meta) for each in events)


def test_an_empty_log_is_sound(open_log: OpenLog, tmp_path: Path) -> None:
    with open_log():
        pass
    report = verify(tmp_path / "log")
    assert report
    assert (report.events, report.bytes, report.problems) == (0, 0, [])


@pytest.mark.parametrize("stream", ["a", "fork", "fork of fork", "fork of deleted", "large"])
def test_one_stream_can_be_verified(stream: str, original: Path) -> None:
    assert check(original, stream) == []
    if stream == "fork":
        report = verify(original, stream=stream)
        assert report
        with BlockingLmdbEventLog(original, durability="os") as log:
            assert report.events == len(log.read(stream))


@pytest.mark.parametrize("stream", ["nobody", "gone"])
def test_a_stream_that_is_not_there_is_a_finding(stream: str, original: Path) -> None:
    problems = verify(original, stream=stream).problems
    assert [(problem.kind, problem.stream) for problem in problems] == [("open", stream)]


def test_progress_is_told_and_ends_at_the_total(open_log: OpenLog, tmp_path: Path) -> None:
    with open_log() as log:
        log.append("a", [event() for _ in range(2_500)])
    told: list[tuple[int, int]] = []
    for stream in (None, "a"):
        assert verify(tmp_path / "log", stream=stream, progress=lambda done, total: told.append((done, total)))
    assert told == 2 * [(1000, 2500), (2000, 2500), (2500, 2500)]


def test_an_error_of_the_progress_callback_ends_it(original: Path) -> None:
    def fail(_done: int, _total: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        verify(original, progress=fail)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_check_that_is_ended_gives_its_reader_slot_back(
    number: signal.Signals, log: BlockingLmdbEventLog, broken: Path
) -> None:
    """Or nothing that is freed from now on could be used again, as long as nobody looks for dead readers."""
    log.append("a", [event() for _ in range(2_000)])
    copy = copy_of(log, broken / "copy")
    with changing(copy) as transaction:
        for record in log.read("a", after=1_000):
            key = layout.log_key(int.from_bytes(record.position[8:], "big"))
            transaction.put(key, bytes(transaction.get(key))[:-1])
    checking: list[int] = []

    def stop(_done: int, _total: int) -> None:
        checking.extend(child for child in children_of(os.getpid()) if is_checking(child))
        while checking[0] not in readers_of(again):
            pass  # it is about to tell of so many problems that the pipe is full: in the middle of a transaction
        if number == signal.SIGINT:  # as Ctrl-C does, to both
            os.kill(checking[0], number)
        raise ZeroDivisionError

    with BlockingLmdbEventLog(copy, durability="os") as again:
        again.append("b", [event()])
        with pytest.raises(ZeroDivisionError):
            verify(copy, progress=stop)
        assert len(checking) == 1
        assert checking[0] not in readers_of(again)


def readers_of(log: BlockingLmdbEventLog) -> list[int]:
    """The processes that have a reader slot."""
    environment = log.engine.environment._lmdb
    assert environment is not None
    return [int(line.split()[0]) for line in environment.readers().splitlines()[1:]]


def test_a_missing_log_is_an_error_and_no_finding(tmp_path: Path) -> None:
    with pytest.raises(LogNotFoundError):
        verify(tmp_path / "missing")
    (tmp_path / "file").write_text("no log")
    with pytest.raises(NotALogError):
        verify(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def write_much(pipe: Connection, path: Path) -> None:
    """Appends, forks, deletions, snapshots."""
    with BlockingLmdbEventLog(path, durability="os") as log:
        pipe.send("open")
        for number in range(1, 401):
            log.append("busy", [event(f"{number}"), event()])
            log.append(f"short {number}", [event() for _ in range(5)])
            log.fork(f"short {number}", f"fork {number}", at=3, events=[event()])
            log.put_snapshot("busy", "fold", 1, number, b"x" * 100)
            log.delete(f"short {max(1, number - 3)}")
            if number > 9:
                log.delete(f"fork {number - 9}")
            log.append("a", [event()])
        pipe.send("done")


def test_verify_beside_a_busy_writer_finds_nothing(log: BlockingLmdbEventLog) -> None:
    fill(log)
    with OtherProcess(write_much, log.path) as process:
        assert process.hear() == "open"
        times = 0
        while not process.has_spoken():
            checkpoint = log.checkpoint()
            assert verify(log.path, checkpoint=checkpoint, stream=None if times % 2 else "a").problems == []
            times += 1
        assert process.hear() == "done"
        assert process.end() == "exit status 0"
    assert times


# ---------------------------------------------------------------------------------------------------- flipped bytes


@pytest.fixture(scope="module")
def file_and_names(original: Path) -> tuple[bytes, dict[int, str]]:
    names = {
        layout.key_stream(key): layout.unpack_facts(value).name.decode()
        for key, value in rows(original)
        if key[:1] == layout.FACTS
    }
    return (original / "data.mdb").read_bytes(), names


def an_event(original: Path, data: bytes) -> tuple[int, bytes]:
    """Position and record of the event with this data."""
    return next((position, value) for position, value in records(original) if value.endswith(data))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(choice=st.data())
def test_a_flipped_byte_of_an_event_is_reported_with_stream_and_version(
    choice: st.DataObject, original: Path, file_and_names: tuple[bytes, dict[int, str]], broken: Path
) -> None:
    data, names = file_and_names
    events = [(position, value) for position, value in records(original) if value[5] == layout.EVENT]
    position, value = choice.draw(st.sampled_from(events))
    header = layout.unpack_header(position, value)
    part = choice.draw(st.sampled_from(["header", "type", "meta", "data"]))
    starts = [0, layout.HEADER_BYTES]
    starts += [starts[-1] + header.type_length]
    starts += [starts[-1] + header.meta_length, len(value)]
    start, end = starts[["header", "type", "meta", "data"].index(part) :][:2]
    if start == end:
        start, end = 0, len(value)
    offset = choice.draw(st.integers(start, end - 1))
    if not (broken / "log").exists():
        shutil.copytree(original, broken / "log")
    place, mask = place_of(data, value) + offset, choice.draw(st.integers(1, 255))
    flip(broken / "log", place, mask)
    problems = check(broken / "log")
    lineage = check(broken / "log", names[header.stream]) if names[header.stream] in {"a", "fork"} else None
    flip(broken / "log", place, mask)
    wanted = (names[header.stream], header.version)
    found = [problem for problem in problems if (problem.stream, problem.version) == wanted]
    assert found, problems
    assert found[0].kind in {"record", "digest"}
    assert found[0].position == position
    if lineage is not None:
        assert wanted in {(problem.stream, problem.version) for problem in lineage}


def test_every_byte_of_a_fork_marker_and_a_tombstone_counts(
    original: Path, file_and_names: tuple[bytes, dict[int, str]], damaged: Path
) -> None:
    data, names = file_and_names
    others = [(position, value) for position, value in records(original) if value[5] != layout.EVENT]
    assert {value[5] for _, value in others} == {layout.FORKED, layout.DELETED}
    for position, value in others:
        header = layout.unpack_header(position, value)
        for offset in range(0, len(value), 3):
            place = place_of(data, value) + offset
            flip(damaged, place, 0x10)
            problems = check(damaged)
            flip(damaged, place, 0x10)
            assert any(
                (problem.kind, problem.stream, problem.position) == ("record", names[header.stream], position)
                for problem in problems
            ), (names[header.stream], offset, problems)
    assert check(damaged) == []


def test_verify_in_its_child_process_says_the_same(
    original: Path, file_and_names: tuple[bytes, dict[int, str]], damaged: Path
) -> None:
    data, _ = file_and_names
    for _, value in records(original)[3::5]:
        flip(damaged, place_of(data, value) + len(value) - 1, 1)
    found = verify(damaged).problems
    assert found
    assert found == check(damaged)


def test_an_event_with_any_byte_damaged_raises_when_it_is_read_with_its_digest(
    original: Path, file_and_names: tuple[bytes, dict[int, str]], damaged: Path
) -> None:
    data, _ = file_and_names
    position, value = an_event(original, b"a3")
    header = layout.unpack_header(position, value)
    with BlockingLmdbEventLog(original, durability="os") as log:
        whole = log.read("a")
    for offset in range(len(value)):
        flip(damaged, place_of(data, value) + offset, 1)
        with BlockingLmdbEventLog(damaged, durability="os") as log:
            with pytest.raises(CorruptEventError) as caught:
                log.read("a", verify=True)
            assert caught.value.version in {header.version, header.version + 1}
            assert log.read("a", after=header.version) == whole[header.version :]
        flip(damaged, place_of(data, value) + offset, 1)


def test_a_damaged_header_raises_when_it_is_read_at_all(
    original: Path, file_and_names: tuple[bytes, dict[int, str]], damaged: Path
) -> None:
    data, _ = file_and_names
    position, value = an_event(original, b"a3")
    header = layout.unpack_header(position, value)
    for offset in (4, 5, 7, 11, 15, 20, 23, 32):  # format, kind, lengths, version, the pointer back
        flip(damaged, place_of(data, value) + offset, 0x40)
        with BlockingLmdbEventLog(damaged, durability="os") as log:
            with pytest.raises(CorruptEventError) as caught:
                log.read("a")
            assert (caught.value.stream, caught.value.version) == ("a", header.version)
            assert int.from_bytes(caught.value.position[8:]) == position
            assert log.read("large", verify=True), "the others are as they were"
        flip(damaged, place_of(data, value) + offset, 0x40)


# --------------------------------------------------------------------------------------------------------- crashes


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_checking(pid: int) -> bool:
    return b"eventstore._scan" in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_killed_check_is_a_finding(open_log: OpenLog, tmp_path: Path) -> None:
    with open_log() as log:
        log.append("a", [event() for _ in range(20_000)])
        log.append("a", [event() for _ in range(20_000)])

    def kill(_done: int, _total: int) -> None:
        for child in children_of(os.getpid()):
            if is_checking(child):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)

    report = verify(tmp_path / "log", progress=kill)
    assert not report
    assert [problem.kind for problem in report.problems] == ["crash"]
    assert "SIGKILL" in report.problems[0].reason


def test_ctrl_c_at_a_terminal_is_not_for_the_check(open_log: OpenLog, tmp_path: Path) -> None:
    """The terminal interrupts the whole group of its process: the caller decides, and the check prints no traceback."""
    with open_log() as log:
        log.append("s", [event("x" * 100)] * 20_000)
    caller = (
        "import os, signal, sys\n"
        "from eventstore.verify import verify\n"
        "def interrupt_the_others(done, total):\n"
        "    signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "    os.killpg(0, signal.SIGINT)\n"
        "report = verify(sys.argv[1], progress=interrupt_the_others)\n"
        "print(report.events, report.problems)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", caller, str(tmp_path / "log")],
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert (done.stdout, done.stderr) == ("20000 []\n", "")


def test_a_page_that_crashes_lmdb_is_a_finding_and_no_crash_of_the_caller(original: Path, damaged: Path) -> None:
    """Pointers of a page lead behind the end of the file: LMDB follows them, and the process dies of SIGBUS."""
    data = (original / "data.mdb").read_bytes()
    _, value = an_event(original, b"last")
    page = place_of(data, value) // 4096 * 4096
    with (damaged / "data.mdb").open("r+b") as file:
        file.seek(page + 16)
        file.write(b"\xf0\xff" * 4)
    report = verify(damaged)
    assert {"structure", "crash"} <= {problem.kind for problem in report.problems}


# -------------------------------------------------------------------------------------------- if it cannot be looked at


def scan_as_nobody(path: Path) -> int:
    """The child's work; the interpreter itself may be out of reach for somebody else."""
    return as_nobody(lambda path: scan(Task(str(path)), lambda _: None).events, path)


def test_what_keeps_verify_from_looking_is_an_error_and_no_finding(
    original: Path, damaged: Path, broken: Path, tmp_path: Path
) -> None:
    lock = SharedLock(damaged)
    with lock.exclusively(), pytest.raises(LogInUseError) as caught:
        verify(damaged)
    lock.close()
    assert caught.value.path == str(damaged)
    (broken / "garbage").mkdir()
    (broken / "garbage/data.mdb").write_bytes(bytes(range(256)) * 64)
    with pytest.raises(NotALogError, match="not an LMDB"):
        verify(broken / "garbage")
    for directory in (broken, tmp_path, tmp_path.parent, tmp_path.parent.parent):
        directory.chmod(0o755)
    damaged.chmod(0o755)
    with pytest.raises(LogPermissionError):
        run(scan_as_nobody, damaged)
    assert verify(original)


@pytest.mark.parametrize("child", ["/bin/false", "/bin/true"])
def test_a_check_that_did_not_happen_is_an_error_and_no_clean_report(
    child: str, original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [CheckpointEntry(f"stream {number}", 1, bytes(32)) for number in range(5_000)]
    large = Checkpoint(bytes(8), 0, entries)  # more than a pipe takes of who does not listen
    monkeypatch.setattr(sys, "executable", child)
    with pytest.raises(LogUnavailableError, match="says nothing"):
        verify(original, checkpoint=large)


def test_verify_imports_nothing_from_where_it_is_called(original: Path, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    for name in ("msgspec", "lmdb", "zlib", "struct"):
        (tmp_path / f"here/{name}.py").write_text("raise SystemExit('imported from where it was called')")
    (tmp_path / "script.py").write_text(
        "import sys; from eventstore.verify import verify; print(bool(verify(sys.argv[1])))"
    )
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py"), str(original)],
        cwd=tmp_path / "here",
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr


def test_only_a_crash_means_that_the_file_is_damaged() -> None:
    assert "damaged" in str(_crash(signal.SIGBUS))
    assert "damaged" not in str(_crash(signal.SIGKILL))


@pytest.mark.parametrize("when", [0, 1, 2, 4])
def test_a_stream_that_is_deleted_while_it_is_verified_is_not_a_finding(when: int, log: BlockingLmdbEventLog) -> None:
    for _ in range(3):
        log.append("stream", [event() for _ in range(1_000)])
    told: list[Found] = []
    checking = Scan(CountingReads(log, when), log.engine.log_id, lambda problem: told.append(Found(problem)))
    checking.read_stream("stream", lambda *_: None)
    assert told == []
    assert checking.events == max(0, when - 3) * 1_000


class CountingReads(Environment):
    """The environment of *log*, in which the stream is deleted, and erased, after that many reads."""

    def __init__(self, log: BlockingLmdbEventLog, reads: int) -> None:
        self._log = log
        self._reads = reads

    def read(self, work: Callable[[Any], T], *, wait: bool = True) -> T:
        found = self._log.engine.environment.read(work, wait=wait)
        if not self._reads:
            self._log.delete("stream")
            self._log.erase()
        self._reads -= 1
        return found


# --------------------------------------------------------------------------------------------------- damage and writes


def test_a_write_that_meets_damage_says_whose_it_is_and_writes_nothing(
    original: Path, file_and_names: tuple[bytes, dict[int, str]], damaged: Path
) -> None:
    data, _ = file_and_names
    position, value = an_event(original, b"last")
    header = layout.unpack_header(position, value)
    flip(damaged, place_of(data, value) + 33, 1)
    before = check(damaged)
    with BlockingLmdbEventLog(damaged, durability="os") as log:
        uses: list[Callable[[], object]] = [
            lambda: log.append("a", [event()]),
            lambda: log.append("a", [event()], expected=header.version, commit_id=bytes(16)),
            lambda: log.fork("a", "new", at=3),
            lambda: log.put_snapshot("a", "fold", 1, 2, b""),
            lambda: log.delete("a"),
        ]
        for use in uses:
            with pytest.raises(CorruptEventError) as caught:
                use()
            assert (caught.value.stream, caught.value.version) == ("a", header.version)
            assert int.from_bytes(caught.value.position[8:]) == position
        fork = log.append("fork", [event("others go on")])
        assert log.read("fork", after=fork.version - 1, verify=True)
    assert check(damaged) == before


def test_a_write_that_needs_a_damaged_event_of_the_past_names_it(
    original: Path, file_and_names: tuple[bytes, dict[int, str]], damaged: Path
) -> None:
    data, _ = file_and_names
    position, value = an_event(original, b"a3")
    header = layout.unpack_header(position, value)
    flip(damaged, place_of(data, value) + 90, 1)
    with BlockingLmdbEventLog(damaged, durability="os") as log:
        for use in (
            lambda: log.fork("a", "new", at=header.version),
            lambda: log.put_snapshot("a", "fold", 1, header.version, b""),
            lambda: log.append("a", [event()], expected=header.version - 1, commit_id=bytes(16)),
        ):
            with pytest.raises(CorruptEventError) as caught:
                use()
            assert (caught.value.stream, caught.value.version) == ("a", header.version)
            assert int.from_bytes(caught.value.position[8:]) == position
        for _ in range(2):  # what was gathered of the recent commits until the damage is not taken for all of them
            with pytest.raises(CorruptEventError) as caught:
                log.append("a", [event()], commit_id=bytes(16))
            assert (caught.value.stream, caught.value.version) == ("a", header.version)
        assert log.append("a", [event()])
