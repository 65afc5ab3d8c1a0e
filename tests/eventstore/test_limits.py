"""The disk, the map, the address space or the reader slots are full: nothing acknowledged is lost, all goes on."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import lmdb
import pytest

from eventstore import (
    AddressSpaceError,
    BlockingLmdbEventLog,
    LmdbEventLog,
    MapFullError,
    NewEvent,
    ReadersFullError,
)
from tests.eventstore.other_process import OtherProcess, run
from tests.eventstore.soundness import problems_of

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from tests.eventstore.conftest import OpenLog

REPOSITORY = Path(__file__).parents[2]
_ENTER = 'mount -t tmpfs -o size=2m,mode=700 tmpfs "$1" && exec "$2" -W error "$3" "$1" "$4" $5'


@pytest.mark.parametrize(
    "claim",
    [
        "acknowledged_events_stay disk small",
        "acknowledged_events_stay disk large",
        "acknowledged_events_stay os small",
        pytest.param("acknowledged_events_stay os large", marks=pytest.mark.slow),
        "a_log_that_is_opened_stays_readable",
        "a_log_without_a_lock_file_cannot_be_opened",
        "a_new_log_leaves_nothing_behind",
        "a_compaction_changes_nothing",
        "a_backup_leaves_nothing_behind",
        "erasure_waits_for_room",
    ],
)
def test_on_a_full_disk(claim: str, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    # A mount namespace of its own: nobody else sees the small file system, and it goes away with the process.
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    script, (name, _, rest) = Path(__file__).with_name("full_disk.py"), claim.partition(" ")
    done = subprocess.run(
        [*unshare, "sh", "-c", _ENTER, "sh", str(disk), sys.executable, str(script), name, rest],
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


# ----------------------------------------------------------------------------------------------------------- the map

SMALL_MAP_BYTES = 2**17
PATIENCE_SECONDS = 20
PLENTY = 1_000


def event(size: int = 1_000) -> NewEvent:
    return NewEvent("type", b"x" * size)


def mapped_bytes(log: BlockingLmdbEventLog) -> int:
    environment = log.engine.environment._lmdb
    assert environment is not None
    return environment.info()["map_size"]


def test_a_full_map_grows_and_nobody_notices(open_log: OpenLog) -> None:
    log = open_log(map_size_bytes=SMALL_MAP_BYTES)
    for version in range(1, PLENTY + 1):
        assert log.append("stream", [event()], expected=version - 1).version == version
    assert mapped_bytes(log) >= 8 * SMALL_MAP_BYTES
    assert len(log.read("stream", verify=True)) == PLENTY


def test_a_commit_larger_than_the_map_makes_it_grow(open_log: OpenLog) -> None:
    log = open_log(map_size_bytes=SMALL_MAP_BYTES)
    log.append("stream", [event()])
    assert log.append("stream", [event(4 * 2**20)], expected=1).version == 2
    assert len(log.read("stream", verify=True)) == 2


def test_the_map_grows_between_readers_and_writers_that_do_not_cease(open_log: OpenLog) -> None:
    log = open_log(map_size_bytes=SMALL_MAP_BYTES)
    log.append("stream", [event()])
    done = threading.Event()
    failed: list[BaseException] = []

    def read() -> None:
        try:
            while not done.is_set():
                log.read("stream", reverse=True, limit=20)
        except BaseException as error:  # noqa: BLE001  (told to the test's own thread)
            failed.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for _ in range(12):
        log.append("stream", [event() for _ in range(100)])
    done.set()
    for reader in readers:
        reader.join()
    assert not failed
    assert mapped_bytes(log) >= 8 * SMALL_MAP_BYTES


def test_the_map_grows_under_a_batch_of_many_appends(tmp_path: Path) -> None:
    async def main() -> None:
        async with LmdbEventLog(tmp_path / "log", durability="os", map_size_bytes=SMALL_MAP_BYTES) as log:
            commits = await asyncio.gather(*(log.append(f"s{n % 50}", [event()]) for n in range(PLENTY)))
            assert len({commit.position for commit in commits}) == PLENTY
            assert mapped_bytes(log.blocking) >= 4 * SMALL_MAP_BYTES

    asyncio.run(main())


def limit_address_space(room: int) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + room, resource.RLIM_INFINITY))


def fill_a_map_that_cannot_grow(path: Path) -> int:
    with BlockingLmdbEventLog(path, durability="os", map_size_bytes=2**26) as log:
        version = log.append("stream", [event()]).version
        limit_address_space(48 * 2**20)
        with pytest.raises(MapFullError):  # noqa: PT012  (some append raises it)
            while True:
                version = log.append("stream", [event(2**19)]).version
        assert version > 100
        assert [each.version for each in log.read("stream", reverse=True, limit=5)] == [
            *range(version, version - 5, -1)
        ]
        with pytest.raises(MapFullError):
            log.append("stream", [event(2**20)])
        assert log.read("stream", limit=1, verify=True) == log.read("stream", upto=1)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert log.append("stream", [event(2**20)], expected=version).version == version + 1
        assert problems_of(log) == []
    return version + 1


def test_a_map_that_cannot_grow_is_an_error_and_all_stays_readable(tmp_path: Path) -> None:
    version = run(fill_a_map_that_cannot_grow, tmp_path / "log")
    with BlockingLmdbEventLog(tmp_path / "log") as log:
        assert len(log.read("stream", verify=True)) == version


def open_with_little_address_space(path: Path, room: int) -> int:
    limit_address_space(room)
    with BlockingLmdbEventLog(path, durability="os") as log:
        log.append("stream", [event()])
        return mapped_bytes(log)


def test_a_process_that_may_not_map_much_maps_less(open_log: OpenLog, tmp_path: Path) -> None:
    with open_log():
        pass
    size = run(open_with_little_address_space, tmp_path / "log", 2**28)
    assert 2**20 <= size < 2**28


def test_a_process_that_may_not_map_the_file_gets_an_error(open_log: OpenLog, tmp_path: Path) -> None:
    log = open_log()
    log.append("stream", [event(2**20) for _ in range(40)])
    log.close()
    with pytest.raises(AddressSpaceError):
        run(open_with_little_address_space, tmp_path / "log", 24 * 2**20)
    with BlockingLmdbEventLog(tmp_path / "log") as again:
        assert len(again.read("stream")) == 40


def use_a_small_map(pipe: Connection, path: Path, room: int) -> None:
    """Read or append whenever told to, through a map that was small when it was opened."""
    with BlockingLmdbEventLog(path, durability="os", map_size_bytes=SMALL_MAP_BYTES) as log:
        log.append("stream", [event()])
        if room:
            limit_address_space(room)
        pipe.send("ready")
        while (message := pipe.recv()) != "end":
            if message == "append":
                log.append("stream", [event()])
            pipe.send((len(log.read("stream", verify=True)), log.last_transaction()))


@pytest.mark.parametrize("room", [0, 48 * 2**20], ids=["free", "limited"])
def test_another_process_makes_the_map_grow_and_nobody_notices(room: int, open_log: OpenLog, tmp_path: Path) -> None:
    log = open_log()
    with OtherProcess(use_a_small_map, tmp_path / "log", room) as process:
        assert process.hear() == "ready"
        for round_ in range(1, 4):
            log.append("stream", [event() for _ in range(PLENTY)])
            log.append("stream", [event()])
            assert process.ask("read")[0] == round_ * (PLENTY + 1) + 1
        log.append("stream", [event(2**20)])
        assert process.ask("append") == (3 * (PLENTY + 1) + 3, log.last_transaction())
        process.tell("end")
        assert process.end() == "exit status 0"


# ----------------------------------------------------------------------------------------------------------- readers


def occupy_readers(pipe: Connection, path: Path, slots: int) -> None:
    """Make a lock file with *slots* readers, and take them all."""
    with lmdb.open(str(path), lib_version=0, max_readers=slots, map_size=2**30, max_spare_txns=0) as environment:
        readers = [environment.begin() for _ in range(slots)]
        pipe.send("taken")
        pipe.recv()
        readers.clear()
        pipe.send("given back")
        pipe.recv()


def test_readers_full_is_an_error_until_a_slot_is_free(open_log: OpenLog, tmp_path: Path) -> None:
    with open_log() as log:
        log.append("stream", [event()])
    (tmp_path / "log/lock.mdb").unlink()
    with OtherProcess(occupy_readers, tmp_path / "log", 3) as process:
        assert process.hear() == "taken"
        with pytest.raises(ReadersFullError):
            open_log().head("stream")
        assert process.ask("give back") == "given back"
        log = open_log()
        assert log.append("stream", [event()], expected=1).version == 2
        log.close()


def test_slots_of_a_reader_that_died_are_taken_back(open_log: OpenLog, tmp_path: Path) -> None:
    log = open_log()
    log.append("stream", [event()])
    log.close()
    (tmp_path / "log/lock.mdb").unlink()
    with OtherProcess(occupy_readers, tmp_path / "log", 3) as first:
        assert first.hear() == "taken"
        assert first.ask("give back") == "given back"
        log = open_log()
        with OtherProcess(occupy_readers, tmp_path / "log", 3) as second:
            assert second.hear() == "taken"
            with pytest.raises(ReadersFullError):
                log.head("stream")
            second.kill()
        head = log.head("stream")
        assert head is not None
        assert head.version == 1


def test_a_reader_that_died_pins_pages_no_longer_than_until_the_next_look(open_log: OpenLog, tmp_path: Path) -> None:
    """What it was reading, and all that was freed since, could not be used again: the file would grow for ever."""
    log = open_log()
    log.append("stream", [event()])
    with OtherProcess(occupy_readers, tmp_path / "log", 3) as process:
        assert process.hear() == "taken"
        process.kill()
        environment = log.engine.environment._lmdb
        assert environment is not None
        assert str(process.pid) in environment.readers()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while str(process.pid) in environment.readers():
            log.append("stream", [event()])
            assert time.monotonic() < deadline, "nobody looks"
