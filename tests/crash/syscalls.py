"""What `strace` says about one process, as values: text in, calls out. Knows nothing of files.

The text is that of `strace -f -y -xx`: every string is `\\xNN` throughout, so that no data can look like syntax. A call
that another thread's call overtook comes in two lines (`<unfinished ...>` and `<... name resumed>`). When it was
entered and when it had returned, *begin* and *end*, are moments: two per line of the trace. All that is known of its
effect is that it fell somewhere between them.
"""

from __future__ import annotations

import re
import shutil
import sys
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

NEVER: Final = sys.maxsize
"""The *end* of a call that had not returned when the trace ended."""

# A leading question mark: not every machine has the call. What `operations` cannot model is traced to be refused there.
TRACED: Final = (
    "openat,?open,?creat,?openat2,close,?dup,?dup2,?dup3,fcntl,lseek,write,writev,pwrite64,pwritev,?pwritev2,ftruncate,"
    "?truncate,fallocate,fsync,fdatasync,?sync,?syncfs,?sync_file_range,msync,mmap,?mkdir,mkdirat,?rename,renameat,"
    "?renameat2,?unlink,unlinkat,?rmdir,?link,linkat,?symlink,symlinkat,?copy_file_range,?sendfile,?splice,"
    "?io_uring_setup,?io_submit,?fork,?vfork,clone,?clone3"
)
_MAX_STRING_BYTES: Final = 1 << 24

_LINE = re.compile(r"(?:\[pid +)?(\d+)\]? +(.*)", re.DOTALL)
_COMPLETE = re.compile(r"(\w+)\((.*)\)\s+= (-?\d+|0x[0-9a-f]+|\?)(?:[ <].*)?", re.DOTALL)
_UNFINISHED = re.compile(r"(\w+)\((.*?)(?:, )? ?<unfinished \.\.\.>", re.DOTALL)
_RESUMED = re.compile(r"<\.\.\. (\w+) resumed>(.*)\)\s+= (-?\d+|0x[0-9a-f]+|\?)(?:[ <].*)?", re.DOTALL)


class TraceError(Exception):
    """The trace holds something that the power-cut model has no words for. Guessing would prove nothing."""


class Call(msgspec.Struct, frozen=True, gc=False):
    """A system call, entered at the moment *begin*, returned by *end*. *result* is None if that is unknown."""

    begin: int
    end: int
    thread: int
    name: str
    arguments: str
    result: int | None


def strace_command(output: Path) -> list[str]:
    """The beginning of a command line: what is traced follows. Raises `TraceError` without strace."""
    strace = shutil.which("strace")
    if strace is None:
        raise TraceError("strace is not installed: the power-cut proof needs it (apt-get install strace)")
    return [strace, "-f", "-y", "-xx", "-s", str(_MAX_STRING_BYTES), "-o", str(output), "-e", f"trace={TRACED}"]


def parse(lines: Iterable[str]) -> list[Call]:
    """The calls in the order in which they returned; those that never did come last."""
    calls: list[Call] = []
    entered: dict[int, Call] = {}
    for number, line in enumerate(lines):
        begin, end = 2 * number, 2 * number + 1
        if (match := _LINE.fullmatch(line.rstrip("\n"))) is None:
            raise TraceError(f"line {number} of the trace is no line of strace -f: {line[:100]!r}")
        thread, text = int(match[1]), match[2].replace(">(deleted)", ">")  # which is said of a descriptor's name
        if text.startswith(("+++", "---", "strace:")):  # an exit, a signal, a remark
            continue
        if match := _COMPLETE.fullmatch(text):
            calls.append(Call(begin, end, thread, match[1], match[2], _number(match[3])))
        elif match := _UNFINISHED.fullmatch(text):
            entered[thread] = Call(begin, NEVER, thread, match[1], match[2], None)
        elif match := _RESUMED.fullmatch(text):
            calls.append(_finish(entered.pop(thread, None), end, match))
        else:
            raise TraceError(f"line {number} of the trace is not understood: {text[:100]!r}")
    return calls + sorted(entered.values(), key=lambda call: call.begin)


def _finish(call: Call | None, end: int, match: re.Match[str]) -> Call:
    if call is None or call.name != match[1]:
        raise TraceError(f"line {end // 2} of the trace resumes a {match[1]} that was not begun")
    return Call(call.begin, end, call.thread, call.name, call.arguments + match[2], _number(match[3]))


def _number(text: str) -> int | None:
    return None if text == "?" else int(text, 0)


def string(text: str) -> bytes:
    """The bytes of a string as -xx prints it, without its quotes."""
    return bytes.fromhex(text.replace("\\x", ""))
