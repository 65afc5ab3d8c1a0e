"""What is at the path is not a sound log of ours: each case has its own error, and nothing is changed."""

from __future__ import annotations

import copy
import errno
import inspect
import os
import pickle
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import lmdb
import pytest

from eventstore import (
    BlockingLmdbEventLog,
    CorruptLogError,
    EventStoreError,
    LogInUseError,
    LogNotFoundError,
    LogPermissionError,
    NetworkFileSystemError,
    NewEvent,
    NotALogError,
    errors,
)
from eventstore._files import file_system_kind
from eventstore.verify import verify
from tests.eventstore.other_process import run
from tests.eventstore.soundness import problems_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.eventstore.conftest import OpenLog

PAGE = 4096
META = 152  # header and content of a meta page
EVENTS = 200
NOBODY = 65534


def contents(path: Path) -> dict[str, bytes | None]:
    return {str(file.relative_to(path)): file.read_bytes() if file.is_file() else None for file in path.rglob("*")}


def make_log(path: Path, events: int = EVENTS) -> None:
    with BlockingLmdbEventLog(path, durability="os") as log:
        for number in range(events):
            log.append("stream", [NewEvent("type", b"%d" % number * 100)])


def put_file(path: Path) -> None:
    path.write_bytes(b"a file")


def put_other_files(path: Path) -> None:
    path.mkdir()
    (path / "notes.txt").write_text("not a log")


def put_garbage(path: Path) -> None:
    path.mkdir()
    (path / "data.mdb").write_bytes(bytes(range(256)) * 64)


def put_nothing_in_the_file(path: Path) -> None:
    path.mkdir()
    (path / "data.mdb").write_bytes(b"")


def put_newer_lmdb(path: Path) -> None:
    with lmdb.open(str(path), lib_version=1) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"key", b"value")


def put_foreign_lmdb(path: Path) -> None:
    with lmdb.open(str(path), lib_version=0, max_dbs=2) as environment:
        environment.open_db(b"their own")
    (path / "lock.mdb").unlink()


def put_foreign_lmdb_with_our_key(path: Path) -> None:
    with lmdb.open(str(path), lib_version=0) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"i", b"somebody else's eye")
    (path / "lock.mdb").unlink()


@pytest.mark.parametrize(
    "put",
    [
        put_file,
        put_other_files,
        put_garbage,
        put_nothing_in_the_file,
        put_newer_lmdb,
        put_foreign_lmdb,
        put_foreign_lmdb_with_our_key,
    ],
)
def test_what_is_not_a_log_is_refused_and_left_as_it_is(put: Callable[[Path], None], broken: Path) -> None:
    path = broken / "log"
    put(path)
    before = contents(broken)
    for create in (True, False):
        with pytest.raises(NotALogError) as caught:
            BlockingLmdbEventLog(path, create=create)
        assert caught.value.path == str(path)
    assert contents(broken) == before


def test_an_empty_directory_becomes_a_log(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    make_log(tmp_path / "log", 1)


def test_a_missing_log_is_not_made_if_that_was_not_asked(tmp_path: Path) -> None:
    with pytest.raises(LogNotFoundError):
        BlockingLmdbEventLog(tmp_path / "log", create=False)
    (tmp_path / "log").mkdir()
    with pytest.raises(LogNotFoundError):
        BlockingLmdbEventLog(tmp_path / "log", create=False)
    assert contents(tmp_path) == {"log": None}


@pytest.mark.parametrize("parent", ["missing", "file"])
def test_a_missing_parent_directory_is_not_made(parent: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    before = contents(tmp_path)
    with pytest.raises(LogNotFoundError):
        BlockingLmdbEventLog(tmp_path / parent / "log")
    assert contents(tmp_path) == before


def test_files_are_for_their_owner_only(open_log: OpenLog, tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        log = open_log()
        log.append("stream", [NewEvent("type", b"")])
        log.backup(tmp_path / "backup")
        log.compact()
    finally:
        os.umask(mask)
    found = {path.name: path.stat().st_mode & 0o777 for path in [*tmp_path.iterdir(), *tmp_path.rglob("*/*")]}
    directories = {name for name in found if "." not in name}
    assert found == {name: 0o700 if name in directories else 0o600 for name in found}
    assert set(found) == {"log", "backup", "data.mdb", "lock.mdb", "refold.lock"}


# ------------------------------------------------------------------------------------------------------- truncated


def look(path: Path) -> int:
    with BlockingLmdbEventLog(path, durability="os") as log:
        return len(log.read("stream", verify=True))


def use(path: Path) -> str:
    """Read it all, write to it, and look at every page."""
    with BlockingLmdbEventLog(path, durability="os") as log:
        assert len(log.read("stream", verify=True)) == EVENTS
        for _ in range(50):
            log.append("stream", [NewEvent("type", b"more" * 500)])
        assert problems_of(log) == []
    return "whole"


def use_each(paths: list[Path]) -> list[str]:
    """What comes of using each; a crash ends the process."""
    outcomes = []
    for path in paths:
        try:
            outcomes.append(use(path))
        except EventStoreError as error:
            outcomes.append(type(error).__name__)
    return outcomes


def test_a_truncated_file_is_an_error_and_never_a_crash(tmp_path: Path, broken: Path) -> None:
    make_log(tmp_path / "log")
    data = (tmp_path / "log/data.mdb").read_bytes()
    assert len(data) > 20 * PAGE
    lengths = [0, 1, 100, 151, 152, PAGE - 1, PAGE, PAGE + 100, 2 * PAGE - 1, *range(2 * PAGE, len(data), 3 * PAGE - 1)]
    for with_lock in (True, False):  # without one it is looked at before any lock is taken
        paths = [broken / f"{length}-{with_lock}" for length in lengths]
        for path, length in zip(paths, lengths, strict=True):
            path.mkdir()
            (path / "data.mdb").write_bytes(data[:length])
            if with_lock:
                (path / "refold.lock").touch()
        outcomes = dict(zip(lengths, run(use_each, paths), strict=True))
        assert set(outcomes.values()) <= {"CorruptLogError", "NotALogError", "whole"}
        assert {outcome for length, outcome in outcomes.items() if length < META} == {"NotALogError"}
        # Whole is what lost nothing but free pages, at its very end.
        lost = {outcome for length, outcome in outcomes.items() if META <= length < len(data) // 2}
        assert lost == {"CorruptLogError"}


def test_a_truncated_file_is_a_finding_of_verify(tmp_path: Path, broken: Path) -> None:
    make_log(tmp_path / "log")
    shutil.copytree(tmp_path / "log", broken / "log")
    os.truncate(broken / "log/data.mdb", (broken / "log/data.mdb").stat().st_size - 5 * PAGE)
    report = verify(broken / "log")
    assert [problem.kind for problem in report.problems] == ["open"]
    assert "truncated" in report.problems[0].reason


@pytest.mark.parametrize("page", [0, 1])
def test_a_damaged_meta_page_is_an_error(page: int, tmp_path: Path, broken: Path) -> None:
    make_log(tmp_path / "log", 3)
    shutil.copytree(tmp_path / "log", broken / "log")
    with (broken / "log/data.mdb").open("r+b") as file:
        file.seek(page * PAGE + 16)
        file.write(bytes(8))
    with pytest.raises((CorruptLogError, NotALogError)):
        BlockingLmdbEventLog(broken / "log")


# ------------------------------------------------------------------------------------------------------ permission


def as_nobody(work: Callable[[Path], int], path: Path) -> int:
    """Permissions do not bind root: be somebody whom they bind."""
    if os.geteuid() == 0:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    return work(path)


@pytest.fixture
def visible(tmp_path: Path) -> Path:
    """A directory that everybody can reach, with a log in it."""
    for directory in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        directory.chmod(0o755)
    make_log(tmp_path / "log", 3)
    return tmp_path


def test_a_log_of_somebody_else_is_a_permission_error(visible: Path) -> None:
    before = contents(visible)
    (visible / "log").chmod(0o000)
    try:
        with pytest.raises(LogPermissionError):
            run(as_nobody, look, visible / "log")
    finally:
        (visible / "log").chmod(0o700)
    assert contents(visible) == before


def test_a_log_that_can_only_be_read_is_a_permission_error(visible: Path) -> None:
    before = contents(visible)
    for file in (visible / "log").iterdir():
        file.chmod(0o444)
    (visible / "log").chmod(0o555)
    try:
        with pytest.raises(LogPermissionError):
            run(as_nobody, look, visible / "log")
    finally:
        (visible / "log").chmod(0o700)
        for file in (visible / "log").iterdir():
            file.chmod(0o600)
    assert contents(visible) == before


def test_a_read_only_directory_takes_no_new_log(visible: Path) -> None:
    before = contents(visible)
    visible.chmod(0o555)
    try:
        with pytest.raises(LogPermissionError):
            run(as_nobody, look, visible / "another")
    finally:
        visible.chmod(0o755)
    assert contents(visible) == before


def backup_into(target: Path, path: Path) -> int:
    with BlockingLmdbEventLog(path, durability="os") as log:
        if os.geteuid() == 0:
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        return log.backup(target)


def test_a_backup_into_a_read_only_directory_is_a_permission_error(visible: Path) -> None:
    visible.chmod(0o555)
    try:
        with pytest.raises(LogPermissionError):
            run(backup_into, visible / "backup", visible / "log")
    finally:
        visible.chmod(0o755)
    assert {path.name for path in visible.iterdir()} == {"log"}


def test_a_compaction_keeps_owner_group_and_mode(tmp_path: Path) -> None:
    """Or a compaction by root would lock the owner out."""
    make_log(tmp_path / "log", 3)
    data = tmp_path / "log/data.mdb"
    data.chmod(0o640)
    if os.geteuid() == 0:  # nobody else can have files of others
        for path in (tmp_path / "log", *(tmp_path / "log").iterdir()):
            os.chown(path, NOBODY, NOBODY)
    before = data.stat()
    with BlockingLmdbEventLog(tmp_path / "log", durability="os") as log:
        log.compact()
    after = data.stat()
    assert after.st_ino != before.st_ino
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)


def test_a_compaction_that_may_not_keep_the_owner_changes_nothing(
    log: BlockingLmdbEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: Path, _user: int, _group: int) -> None:
        raise PermissionError(errno.EPERM, "not yours")

    log.append("stream", [NewEvent("type", b"")])
    before, names = log.path.joinpath("data.mdb").read_bytes(), set(log.path.iterdir())
    really = os.stat
    with monkeypatch.context() as patch:
        patch.setattr(os, "chown", refuse)
        patch.setattr(Path, "stat", lambda self, **options: somebody_elses(really(self, **options)))
        with pytest.raises(LogPermissionError):
            log.compact()
    assert (log.path.joinpath("data.mdb").read_bytes(), set(log.path.iterdir())) == (before, names)
    log.append("stream", [NewEvent("type", b"")], expected=1)
    log.compact()


def somebody_elses(status: os.stat_result) -> os.stat_result:
    """The copy seems to belong to another user than the file."""
    fields = list(status)
    fields[stat.ST_UID] += 1
    return os.stat_result(fields)


# --------------------------------------------------------------------------------------------- network file systems

MOUNTS = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw,discard
90 27 0:45 / /mnt/home rw shared:7 master:2 - nfs4 server:/home rw,vers=4.2
91 27 0:46 / /mnt/with\\040space rw - fuse.sshfs me@there: rw
92 27 0:47 / /mnt/odd rw - fuse.something odd rw
"""


@pytest.mark.parametrize(
    ("device", "kind"),
    [((254, 0), "ext4"), ((0, 45), "nfs4"), ((0, 46), "fuse.sshfs"), ((0, 4), None), ((54, 0), None)],
)
def test_the_kind_of_a_file_system_is_what_mountinfo_says_of_its_device(
    device: tuple[int, int], kind: str | None
) -> None:
    assert file_system_kind(MOUNTS, os.makedev(*device)) == kind


def pretend_it_is_on(kind: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = path.stat().st_dev
    line = f"90 27 {os.major(device)}:{os.minor(device)} / /somewhere rw - {kind} server:/home rw\n"
    mounts = b"80 27 0:99 / /no\xffUTF-8 rw - tmpfs tmpfs rw\n" + line.encode()
    read_bytes = Path.read_bytes
    monkeypatch.setattr(
        Path, "read_bytes", lambda self: mounts if str(self) == "/proc/self/mountinfo" else read_bytes(self)
    )


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph", "lustre"])
def test_a_network_file_system_is_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_log(tmp_path / "old", 1)
    before = contents(tmp_path)
    with monkeypatch.context() as patch:
        pretend_it_is_on(kind, tmp_path, patch)
        for name in ("old", "new"):
            with pytest.raises(NetworkFileSystemError, match=kind):
                BlockingLmdbEventLog(tmp_path / name)
    assert contents(tmp_path) == before


def test_what_may_be_a_network_file_system_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_log(tmp_path / "log", 1)
    with monkeypatch.context() as patch:
        pretend_it_is_on("fuse.something", tmp_path, patch)
        with pytest.warns(RuntimeWarning, match=r"fuse\.something"):
            BlockingLmdbEventLog(tmp_path / "log").close()


# ---------------------------------------------------------------------------------------------------------- errors


def every_error() -> list[type[EventStoreError]]:
    found = [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, EventStoreError)]
    assert {each.__name__ for each in found if not each.__name__.startswith("_")} == set(errors.__all__)
    return found


@pytest.mark.parametrize("error", every_error())
def test_an_error_survives_pickling_with_its_facts(error: type[EventStoreError]) -> None:
    samples = {
        "stream": "a", "reason": "why", "expected": 1, "actual": 2, "commit_id": b"c" * 16, "version": 3,
        "position": b"p", "parent": "b", "at": 4, "head": 5, "what": "event", "size": 6, "limit": 7, "cursor": b"c",
        "path": "/log",
    }  # fmt: skip
    names = [] if error is EventStoreError else list(inspect.signature(error).parameters)
    made = error(*(samples[name] for name in names))
    for again in (pickle.loads(pickle.dumps(made)), copy.copy(made)):
        assert type(again) is error
        assert vars(again) == vars(made) == {name: samples[name] for name in names}
        assert str(again) == str(made)
    assert error is EventStoreError or str(made)


def test_an_error_about_files_says_what_did_not_happen(broken: Path) -> None:
    put_file(broken / "log")
    with pytest.raises(NotALogError, match="nothing was changed"):
        BlockingLmdbEventLog(broken / "log")


def test_a_file_open_by_other_means_in_this_process_is_in_use(tmp_path: Path) -> None:
    make_log(tmp_path / "log", 1)
    with lmdb.open(str(tmp_path / "log"), lib_version=0), pytest.raises(LogInUseError, match="this process"):
        BlockingLmdbEventLog(tmp_path / "log")
