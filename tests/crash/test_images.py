"""From operations on files to what a power cut leaves of them."""

from __future__ import annotations

import random

from tests.crash.images import SECTOR_BYTES, History, Tree
from tests.crash.operations import ROOT, Acknowledged, Linked, Operation, Renamed, Synced, Truncated, Unlinked, Written
from tests.crash.syscalls import NEVER

_TRIES = 600
_FILE: list[Operation] = [Linked(0, 1, ROOT, "f", 1, directory=False), Synced(2, 3, ROOT)]


def outcomes(seen: list[Operation], cut: int = NEVER, *, mapped: bytes = b"") -> list[Tree]:
    """Every image that the choices come to."""
    history = History(seen, mapped=mapped)
    found: dict[bytes, Tree] = {}
    for seed in range(_TRIES):
        image = history.image(cut, random.Random(seed))
        found[image.digest()] = image.tree
    return sorted(found.values(), key=str)


def contents(*seen: Operation, cut: int = NEVER) -> list[bytes]:
    """Everything that the one file may hold after *seen*."""
    files = [tree["f"] for tree in outcomes([*_FILE, *seen], cut)]
    return sorted(content for content in files if isinstance(content, bytes))


def write(begin: int, end: int, offset: int, data: bytes, *, through: bool = False) -> Written:
    return Written(begin, end, 1, offset, data, through)


def test_synced_writes_stay_and_others_may_be_kept_or_lost() -> None:
    seen = (write(4, 5, 0, b"a"), Synced(6, 7, 1), write(8, 9, 1, b"b"))
    assert contents(*seen, cut=8) == [b"a"]
    assert contents(*seen) == [b"a", b"a\0", b"ab"]


def test_a_flush_covers_nothing_before_it_has_returned() -> None:
    seen = (write(4, 5, 0, b"a"), Synced(6, 9, 1))
    assert contents(*seen, cut=9) == [b"", b"\0", b"a"]
    assert contents(*seen, cut=10) == [b"a"]


def test_a_flush_covers_no_write_that_had_not_returned_when_it_was_entered() -> None:
    assert contents(write(4, 7, 0, b"a"), Synced(6, 9, 1)) == [b"", b"\0", b"a"]


def test_a_flush_of_one_file_covers_no_other() -> None:
    other = Linked(0, 1, ROOT, "g", 2, directory=False)
    assert contents(other, write(4, 5, 0, b"a"), Synced(6, 7, 2)) == [b"", b"\0", b"a"]


def test_a_write_through_a_dsync_descriptor_stays_once_it_has_returned() -> None:
    seen = (write(4, 5, 0, b"a"), write(6, 7, SECTOR_BYTES, b"b", through=True))
    assert b"" in contents(*seen, cut=7)
    assert {content[SECTOR_BYTES:] for content in contents(*seen)} == {b"b"}
    assert bytes(SECTOR_BYTES) + b"b" in contents(*seen)  # and nothing else with it


def test_an_unsynced_write_is_torn_at_sectors_and_nowhere_else() -> None:
    old, new = b"o" * SECTOR_BYTES, b"n" * SECTOR_BYTES
    found = contents(write(4, 5, 0, 3 * old, through=True), write(6, 7, 0, 3 * new))
    assert len(found) == 2**3
    pieces = {content[at : at + SECTOR_BYTES] for content in found for at in range(0, len(content), SECTOR_BYTES)}
    assert pieces == {old, new}


def test_a_sector_goes_to_the_disk_with_all_that_the_cache_held_of_it() -> None:
    assert contents(write(4, 5, 0, b"aaaa"), write(6, 7, 1, b"bb")) == [b"", bytes(3), bytes(4), b"aaaa", b"abba"]


def test_a_lost_write_may_leave_zeros_behind() -> None:
    data = b"a" * SECTOR_BYTES
    assert contents(write(4, 5, 0, data)) == [b"", bytes(SECTOR_BYTES), data]


def test_a_truncation_may_be_lost_until_the_file_is_synced() -> None:
    seen = (write(4, 5, 0, b"abc", through=True), Truncated(6, 7, 1, 1), Synced(8, 9, 1))
    assert contents(*seen, cut=8) == [b"a", b"abc"]
    assert contents(*seen) == [b"a"]


def test_a_file_may_come_back_until_the_directory_is_synced() -> None:
    seen: list[Operation] = [*_FILE, Unlinked(4, 5, ROOT, "f"), Synced(6, 7, ROOT)]
    assert outcomes(seen, cut=6) == [{"f": b""}, {}]
    assert outcomes(seen) == [{}]


def test_a_rename_may_be_lost_or_kept_until_the_directory_is_synced() -> None:
    seen: list[Operation] = [
        Linked(0, 1, ROOT, "new", 1, directory=True),
        Linked(2, 3, 1, "f", 2, directory=False),
        Synced(4, 5, 1),
        Synced(6, 7, ROOT),
        Renamed(8, 9, ROOT, "new", ROOT, "log", 1),
        Synced(10, 11, ROOT),
    ]
    assert outcomes(seen) == [{"log": {"f": b""}}]
    assert outcomes(seen, cut=10) == [{"log": {"f": b""}}, {"new": {"f": b""}}]


def test_a_rename_between_directories_may_leave_both_names_until_both_are_synced() -> None:
    moved = Renamed(8, 9, 1, "f", ROOT, "g", 2)
    seen: list[Operation] = [
        Linked(0, 1, ROOT, "d", 1, directory=True),
        Linked(2, 3, 1, "f", 2, directory=False),
        Synced(4, 5, 1),
        Synced(6, 7, ROOT),
        moved,
        Synced(10, 11, ROOT),
        Synced(12, 13, 1),
    ]
    both: Tree = {"d": {"f": b""}, "g": b""}
    assert outcomes(seen, cut=10) == [both, {"d": {"f": b""}}, {"d": {}, "g": b""}]
    assert outcomes(seen, cut=12) == [both, {"d": {}, "g": b""}]
    assert outcomes(seen) == [{"d": {}, "g": b""}]


def test_a_synced_file_may_still_lose_its_name() -> None:
    seen: list[Operation] = [
        Linked(0, 1, ROOT, "f", 1, directory=False),
        Written(2, 3, 1, 0, b"a", through=False),
        Synced(4, 5, 1),
    ]
    assert outcomes(seen) == [{"f": b"a"}, {}]


def test_a_directory_that_was_renamed_unsynced_may_have_lost_its_files() -> None:
    seen: list[Operation] = [
        Linked(0, 1, ROOT, "new", 1, directory=True),
        Linked(2, 3, 1, "f", 2, directory=False),
        Renamed(4, 5, ROOT, "new", ROOT, "log", 1),
        Synced(6, 7, ROOT),
    ]
    assert {"log": {}} in outcomes(seen)


def test_a_mapped_file_may_hold_anything() -> None:
    seen: list[Operation] = [
        Linked(0, 1, ROOT, "lock.mdb", 1, directory=False),
        Synced(2, 3, ROOT),
        Truncated(4, 5, 1, 4),
    ]
    found = [tree["lock.mdb"] for tree in outcomes(seen, mapped=b"live")]
    assert found == [b"", bytes(4), b"live"]


def test_what_was_said_counts_from_the_moment_it_was_being_said() -> None:
    history = History([Acknowledged(0, 5, b"one"), Acknowledged(6, 7, b"two")])
    said = [history.image(cut, random.Random(0)).acknowledged for cut in (0, 1, 6, 7)]
    assert said == [(), (b"one",), (b"one",), (b"one", b"two")]


def test_cuts_fall_after_each_beginning_and_each_end() -> None:
    assert History([Synced(0, 3, ROOT), Synced(4, NEVER, ROOT)]).cuts() == [1, 4, 5]
