"""From the text of strace to operations on files, by hand-made traces."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.crash.operations import (
    ROOT,
    Acknowledged,
    Linked,
    Operation,
    Renamed,
    Synced,
    Truncated,
    Unlinked,
    Written,
    watch,
)
from tests.crash.syscalls import NEVER, Call, TraceError, parse, strace_command, string

_CREATE = "openat(AT_FDCWD<{/}>, {/root/f}, O_RDWR|O_CREAT|O_CLOEXEC, 0600) = 3<{/root/f}>"


def trace(*calls: str) -> list[str]:
    """Lines of strace: {text} stands for a string in its notation, quoted where it is no path of a descriptor."""
    lines = []
    for call in calls:
        thread, _, text = call.rpartition("| ") if "| " in call else ("100", "", call)
        escaped = re.sub(r"<\{(.*?)\}>", lambda match: f"<{escape(match[1])}>", text)
        escaped = re.sub(r"\{([^{}]*?)\}", lambda match: f'"{escape(match[1])}"', escaped)
        lines.append(f"{thread}  {escaped}\n")
    return lines


def escape(text: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in text.encode())


def operations(*calls: str) -> list[Operation]:
    return watch(parse(trace(*calls)), Path("/root"))


# ------------------------------------------------------------------------------------------------ text to calls


def test_a_call_on_one_line_spans_two_moments() -> None:
    assert parse(trace("fdatasync(4<{/root/f}>) = 0")) == [Call(0, 1, 100, "fdatasync", f"4<{escape('/root/f')}>", 0)]


def test_a_call_that_another_overtook_is_put_together() -> None:
    calls = parse(
        trace(
            "7| pwrite64(4<{/f}>, {ab}, 2, 512 <unfinished ...>", "8| fsync(5) = 0", "7| <... pwrite64 resumed>)   = 2"
        )
    )
    assert [(call.name, call.begin, call.end, call.result) for call in calls] == [
        ("fsync", 2, 3, 0),
        ("pwrite64", 0, 5, 2),
    ]
    assert calls[1].arguments == trace("4<{/f}>, {ab}, 2, 512")[0].split("  ")[1].strip()


def test_a_call_that_never_returned_comes_last() -> None:
    calls = parse(trace("7| fsync(4 <unfinished ...>", "8| fsync(5) = 0", "7| +++ killed by SIGKILL +++"))
    assert [(call.begin, call.end) for call in calls] == [(2, 3), (0, NEVER)]


def test_a_descriptor_whose_name_is_gone_reads_like_any_other() -> None:
    assert parse(trace("fsync(4<{/root/f}>(deleted)) = 0")) == parse(trace("fsync(4<{/root/f}>) = 0"))


def test_a_failed_call_has_its_result() -> None:
    assert [call.result for call in parse(trace("mkdir({/root/d}, 0700) = -1 EEXIST (File exists)"))] == [-1]


def test_signals_and_exits_are_no_calls() -> None:
    assert not parse(trace("--- SIGCHLD {si_signo=SIGCHLD} ---", "+++ exited with 0 +++"))


@pytest.mark.parametrize("text", ["nonsense", "100  pwrite64(4, ", "100  <... fsync resumed>) = 0"])
def test_text_that_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(TraceError, match="line 0"):
        parse([text])


def test_strings_keep_every_byte() -> None:
    assert string(escape('a"\\,\n<>')) == b'a"\\,\n<>'


def test_without_strace_there_is_no_proof_and_no_skipping_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(TraceError, match="strace is not installed"):
        strace_command(Path("trace"))


# ------------------------------------------------------------------------------------------ calls to operations


def test_writes_go_to_the_offset_of_their_descriptor() -> None:
    seen = operations(
        _CREATE,
        "lseek(3<{/root/f}>, 4096, SEEK_SET) = 4096",
        "writev(3<{/root/f}>, [{iov_base={ab}, iov_len=2}, {iov_base={cde}, iov_len=3}], 2) = 5",
        "dup(3<{/root/f}>) = 9<{/root/f}>",
        "write(9<{/root/f}>, {f}, 1) = 1",
        "pwrite64(3<{/root/f}>, {g}, 1, 7) = 1",
        "write(3<{/root/f}>, {h}, 1) = 1",
    )
    assert [(o.offset, o.data) for o in seen if isinstance(o, Written)] == [
        (4096, b"abcde"),
        (4101, b"f"),
        (7, b"g"),
        (4102, b"h"),
    ]


def test_a_short_write_wrote_what_it_returned() -> None:
    seen = operations(_CREATE, "write(3<{/root/f}>, {abc}, 3) = 2", "write(3<{/root/f}>, {c}, 1) = 1")
    assert [(o.offset, o.data) for o in seen if isinstance(o, Written)] == [(0, b"ab"), (2, b"c")]


def test_appending_writes_go_to_the_end() -> None:
    seen = operations(
        _CREATE,
        "pwrite64(3<{/root/f}>, {abc}, 3, 0) = 3",
        "openat(AT_FDCWD<{/}>, {/root/f}, O_WRONLY|O_APPEND) = 4<{/root/f}>",
        "write(4<{/root/f}>, {d}, 1) = 1",
    )
    assert [o.offset for o in seen if isinstance(o, Written)] == [0, 3]


def test_a_write_through_a_dsync_descriptor_is_marked() -> None:
    seen = operations(
        _CREATE,
        "openat(AT_FDCWD<{/}>, {/root/f}, O_WRONLY|O_DSYNC|O_CLOEXEC) = 4<{/root/f}>",
        "pwrite64(4<{/root/f}>, {a}, 1, 0) = 1",
        "pwrite64(3<{/root/f}>, {b}, 1, 0) = 1",
    )
    assert [o.through for o in seen if isinstance(o, Written)] == [True, False]


def test_an_open_file_follows_the_rename_of_its_directory() -> None:
    seen = operations(
        "mkdir({/root/new}, 0700) = 0",
        "openat(AT_FDCWD<{/}>, {/root/new/f}, O_RDWR|O_CREAT, 0600) = 3<{/root/new/f}>",
        "rename({/root/new}, {/root/log}) = 0",
        "fsync(3<{/root/log/f}>) = 0",
        "openat(AT_FDCWD<{/root}>, {log/f}, O_RDONLY) = 4<{/root/log/f}>",
        "openat(AT_FDCWD<{/root/log}>, {..}, O_RDONLY|O_DIRECTORY) = 5<{/root}>",
        "fsync(5<{/root}>) = 0",
    )
    assert seen == [
        Linked(0, 1, ROOT, "new", 1, directory=True),
        Linked(2, 3, 1, "f", 2, directory=False),
        Renamed(4, 5, ROOT, "new", ROOT, "log", 1),
        Synced(6, 7, 2),
        Synced(12, 13, ROOT),
    ]


def test_names_are_removed_and_files_truncated() -> None:
    seen = operations(
        _CREATE,
        "write(3<{/root/f}>, {abc}, 3) = 3",
        "ftruncate(3<{/root/f}>, 1) = 0",
        "openat(AT_FDCWD<{/}>, {/root/f}, O_WRONLY|O_TRUNC) = 4<{/root/f}>",
        "unlink({/root/f}) = 0",
    )
    assert seen[2:] == [Truncated(4, 5, 1, 1), Truncated(6, 7, 1, 0), Unlinked(8, 9, ROOT, "f")]


def test_room_that_is_reserved_makes_a_file_longer_and_never_shorter() -> None:
    seen = operations(
        _CREATE,
        "fallocate(3<{/root/f}>, 0, 0, 4096) = 0",
        "fallocate(3<{/root/f}>, 0, 0, 100) = 0",
    )
    assert seen[1:] == [Truncated(2, 3, 1, 4096), Truncated(4, 5, 1, 4096)]


def test_standard_output_is_where_acknowledgements_go() -> None:
    assert operations("write(1<{pipe:[7]}>, {done}, 4) = 4") == [Acknowledged(0, 1, b"done")]


def test_other_files_failures_and_closed_descriptors_leave_no_trace() -> None:
    assert [type(o) for o in operations(
        "openat(AT_FDCWD<{/}>, {/rooted/f}, O_RDWR|O_CREAT, 0600) = 3<{/rooted/f}>",
        "write(3<{/rooted/f}>, {a}, 1) = 1",
        "mkdir({/root/d}, 0700) = -1 ENOSPC (No space left on device)",
        _CREATE,
        "close(3<{/root/f}>) = 0",
        "write(3<{/elsewhere}>, {a}, 1) = 1",
    )] == [Linked]  # fmt: skip


@pytest.mark.parametrize(
    "call",
    [
        "fallocate(3<{/root/f}>, FALLOC_FL_PUNCH_HOLE|FALLOC_FL_KEEP_SIZE, 0, 4096) = 0",
        "copy_file_range(3<{/root/f}>, NULL, 9<{/x}>, NULL, 4096, 0) = 4096",
        "mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_SHARED, 3<{/root/f}>, 0) = 0x7f0000000000",
        "rename({/root/f}, {/elsewhere}) = 0",
        "link({/root/f}, {/root/g}) = 0",
        "sync() = 0",
        "clone(child_stack=NULL, flags=CLONE_CHILD_CLEARTID|SIGCHLD) = 101",
        "write(3<{/root/f}>, {abc}..., 1000) = 1000",
        "openat(AT_FDCWD<{/}>, {/root/old}, O_RDWR) = 4<{/root/old}>",
    ],
)
def test_what_the_model_has_no_words_for_is_refused(call: str) -> None:
    with pytest.raises(TraceError, match="line 1"):
        operations(_CREATE, call)
