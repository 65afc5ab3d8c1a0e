"""What the tests of the command line share: stores to look into, and commands run in this process, in a pipe or on a
terminal in memory.
"""

from __future__ import annotations

import contextlib
import io
import os
import termios
import threading
from typing import TYPE_CHECKING, NamedTuple

from session.cli import run
from session.events import (
    BlockReceived,
    MessageAppended,
    Meta,
    MetadataUpdated,
    PromptChanged,
    RequestSent,
    ResponseInterrupted,
    ResponseReceived,
    SessionCreated,
    ToolRefused,
    ToolReturned,
    ToolStarted,
    UnknownEvent,
    UsageRecorded,
)
from session.jsontext import encode
from session.storage.blocking import BlockingEventSessionStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from session.events import AnyEvent

MODEL = "claude-sonnet-5-5"
COLUMNS = 160


class Ran(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[list[str]]:
        return [line.split("\t") for line in self.out.splitlines()]


class Cli:
    """Commands on one store."""

    def __init__(self, store: Path) -> None:
        self.store = store

    def __call__(self, *arguments: str) -> Ran:
        """Run it as if in a pipe."""
        out, err = _Pipe(), _Pipe()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run(["--store", str(self.store), *arguments])
            out.flush()
        return Ran(code, out.text(), err.text())

    def ok(self, *arguments: str) -> Ran:
        ran = self(*arguments)
        assert ran.code == 0, ran
        return ran

    def on_terminal(self, *arguments: str) -> Ran:
        """Run it with stdout on a terminal; stderr stays a pipe."""
        err = _Pipe()
        with _terminal() as (out, read), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run(["--store", str(self.store), *arguments])
        return Ran(code, read().decode(), err.text())


class _Pipe(io.TextIOWrapper):
    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", errors="backslashreplace", write_through=True)

    def text(self) -> str:
        self.flush()
        buffer = self.buffer
        assert isinstance(buffer, io.BytesIO)
        return buffer.getvalue().decode()


@contextlib.contextmanager
def _terminal() -> Iterator[tuple[io.TextIOWrapper, Callable[[], bytes]]]:
    """A terminal to write to, and what was written once it is closed. No process is forked for it."""
    master, slave = os.openpty()
    attributes = termios.tcgetattr(slave)
    attributes[1] &= ~termios.OPOST  # bytes as they are written
    termios.tcsetattr(slave, termios.TCSANOW, attributes)
    chunks: list[bytes] = []

    def drain() -> None:
        with contextlib.suppress(OSError):  # EIO: the other side was closed
            while chunk := os.read(master, 65_536):
                chunks.append(chunk)

    reader = threading.Thread(target=drain)
    reader.start()
    before = {name: os.environ.get(name) for name in ("COLUMNS", "LINES", "TERM", "NO_COLOR")}
    os.environ.update(COLUMNS=str(COLUMNS), LINES="50", TERM="xterm-256color")
    try:
        with os.fdopen(slave, "w", encoding="utf-8", errors="backslashreplace") as out:
            yield out, lambda: b"".join(chunks)
    finally:
        reader.join()
        os.close(master)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def append(store: BlockingEventSessionStorage, session: str, *events: AnyEvent, meta: Meta | None = None) -> None:
    """Append *events*, creating the session if it is new."""
    if session not in store.list():
        store.append(session, [SessionCreated(session, origin="test")], expected=0)
    store.append(session, list(events), meta=meta or Meta())


def turn(number: int, *, ask: str = "ask", answer: str = "answer", tools: tuple[str, ...] = ()) -> list[AnyEvent]:
    """An ask and its answer, which calls *tools*."""
    request = f"req_{number}"
    ids = tuple(f"toolu_{number}_{place}" for place in range(len(tools)))
    blocks = [{"type": "text", "text": f"{answer} {number}"}]
    content = encode(blocks)
    calls = [{"type": "tool_use", "id": id_, "name": name, "input": {}} for id_, name in zip(ids, tools, strict=True)]
    return [
        MessageAppended.of({"role": "user", "content": f"{ask} {number}"}),
        RequestSent(request, 2 * number - 1),
        UsageRecorded(
            b'{"input_tokens":100,"output_tokens":20,"cache_read_input_tokens":300}',
            model=MODEL,
            cost_picodollars=1_000_000_000,
            request_id=request,
        ),
        ResponseReceived(
            request,
            f"msg_{number:03}",
            MODEL,
            "tool_use" if tools else "end_turn",
            content=encode([*blocks, *calls]),
            tool_uses=ids,
        ),
        *(ToolStarted(id_, name) for id_, name in zip(ids, tools, strict=True)),
        *(ToolReturned(id_, encode({"type": "tool_result", "tool_use_id": id_, "content": "ok"})) for id_ in ids),
        *((ResponseReceived(f"{request}_end", content=content),) if tools else ()),
    ]


def seed(path: Path) -> None:
    """sess_main with four turns and a title, its forks sess_fork_one (turn 1, gone on with) and sess_fork_two (turn 2),
    and sess_other.
    """
    with BlockingEventSessionStorage(path) as store:
        title = MetadataUpdated(encode({"title": "the main one", "tags": ["good"]}))
        append(store, "sess_main", title, PromptChanged(model=MODEL, system=b'"be kind"'))
        for number in range(1, 5):
            append(store, "sess_main", *turn(number, tools=("bash",) if number == 3 else ()))
        store.fork("sess_main", "sess_fork_one", at="turn:1")
        append(store, "sess_fork_one", *turn(2, ask="another way"))
        store.fork("sess_main", "sess_fork_two", at="turn:2")
        append(store, "sess_other", *turn(1, ask="something else"))


def seed_hostile(path: Path, text: str) -> None:
    """sess_hostile: *text* wherever others have a say."""
    with BlockingEventSessionStorage(path) as store:
        content = [
            {"type": "text", "text": text},
            {"type": "thinking", "thinking": text, "signature": text},
            {"type": "tool_use", "id": "toolu_1", "name": text, "input": {text: text}},
            {"type": text, text: text},
        ]
        result = encode({"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": text}]})
        append(
            store,
            "sess_hostile",
            MetadataUpdated(encode({"title": text, "tags": [text], text: text})),
            PromptChanged(model=text, system=encode(text), tools=encode([{"name": text}])),
            MessageAppended.of({"role": "user", "content": text}),
            MessageAppended.of({"role": text, "content": text, text: text}),
            MessageAppended.of(text.encode("utf-8", "surrogateescape")),
            RequestSent("req_1", 3, path=text),
            BlockReceived("req_1", 0, encode(content[0])),
            ResponseInterrupted("req_1", text, error=text.encode("utf-8", "surrogateescape")),
            RequestSent("req_2", 3),
            UsageRecorded(encode({"input_tokens": 1, "output_tokens": 1, text: 2}), model=text),
            ResponseReceived("req_2", text, text, text, content=encode(content), tool_uses=("toolu_1",)),
            ToolStarted("toolu_1", text),
            ToolReturned("toolu_1", result),
            ToolRefused("toolu_2", result, text),
            UnknownEvent("later", text.encode("utf-8", "surrogateescape")),
            meta=Meta(actor=text, correlation_id=text, causation_id=text, more={"key": text}),
        )
        store.fork("sess_hostile", "sess_hostile_fork", reason=text)
        append(store, "sess_hostile_fork", MessageAppended.of({"role": "user", "content": f"{text} again"}))
