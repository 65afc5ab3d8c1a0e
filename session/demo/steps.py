"""The steps of the demo: each does something real in the store of its `Stage`, measures it, and says what it saw."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from session.demo import station
from session.events import MessageAppended, SessionCreated
from session.live import create_session, resume_session
from session.places import HEAD
from session.storage import BlockingEventSessionStorage, EventSessionStorage
from session.storage._log import check_log
from session.testing import ScriptedApi
from session.transfer import Imported, import_path

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator

    from session.events import SessionEvent
    from session.live import Session
    from session.testing._server import LoopbackServer

LIVE_SESSION: Final = "demo-station"
LONG_SESSION: Final = "demo-long"
LONG_MESSAGES: Final = 10_000
FORKS: Final = 1_000
CONVERSATIONS: Final = Path(__file__).parent / "conversations"

_WAIT_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.02
_TRUE, _FALSE = b"roof: 31.4 degrees", b"roof: 30.4 degrees"  # one bit apart


class Stage:
    """Where a demo plays: its *store*, room for copies beside it, and the API that is talked to.

    *server*: the scripted API; None: the real one. *figures* are what the running step measured.
    """

    def __init__(self, directory: Path, server: LoopbackServer | None) -> None:
        self.directory = directory
        self.store = directory / "store"
        self.server = server
        self.figures: dict[str, float] = {}

    @contextlib.asynccontextmanager
    async def session_options(self) -> AsyncGenerator[dict[str, Any], None]:
        """What every session of the demo is opened with."""
        options: dict[str, Any] = {"tools": station.tools(), "max_tokens": 1_000}
        if self.server is None:
            yield options
            return
        async with self.server.api.async_client() as client:
            yield {**options, "client": client}

    def environment(self) -> dict[str, str]:
        """The environment of the process that is killed: it talks to the same API."""
        found = {**os.environ, "PYTHONPATH": os.pathsep.join(entry or "." for entry in sys.path)}
        if self.server is not None:
            found |= {"ANTHROPIC_BASE_URL": self.server.base_url, "ANTHROPIC_API_KEY": "scripted"}
            found |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
            found.pop("ANTHROPIC_AUTH_TOKEN", None)
        return found

    def blocking(self) -> BlockingEventSessionStorage:
        """The store."""
        return BlockingEventSessionStorage(self.store)


class Step(msgspec.Struct, frozen=True):
    """What is shown: *play* yields lines of text as they happen."""

    name: str
    title: str
    play: Callable[[Stage], Iterator[str]]


@contextlib.contextmanager
def staged(*, live: bool = False, keep: Path | None = None) -> Iterator[Stage]:
    """A stage in a temporary directory, or in *keep*, which stays, if the play comes to its end. Raises
    `FileExistsError` if *keep* is there.
    """
    with contextlib.ExitStack() as stack:
        if keep is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="refold-demo-")))
        else:
            keep.mkdir(parents=True)
            stack.push(lambda kind, *_: shutil.rmtree(keep, ignore_errors=True) if kind else None)
            directory = keep
        server = None if live else stack.enter_context(ScriptedApi(station.model).serve())
        yield Stage(directory, server)


# --- 1, 2: a conversation, and one that is killed ---------------------------------------------------------------------


def converse(stage: Stage) -> Iterator[str]:
    """A conversation with tools."""
    began = time.perf_counter()
    yield from asyncio.run(_converse(stage))
    stage.figures["seconds"] = time.perf_counter() - began
    with stage.blocking() as store:
        types = [stored.type for stored in store.events(LIVE_SESSION)]
        stage.figures["events"] = len(types)
        yield f"{len(types)} events on disk, each before the next step was taken; the newest:"
        newest = list(store.events(LIVE_SESSION))[-4:]
        yield from (f"  {LIVE_SESSION}@{found.version}  {found.type:<18} {found.digest.hex()[:12]}" for found in newest)


async def _converse(stage: Stage) -> list[str]:
    said: list[str] = []
    async with EventSessionStorage(stage.store) as storage, stage.session_options() as options:
        opening = create_session(
            session_id=LIVE_SESSION,
            model=station.MODEL,
            system=station.SYSTEM,
            metadata={"title": "A weather station"},
            session_storage=storage,
            **options,
        )
        async with opening as chat:
            for ask in station.ASKS:
                await chat.send(ask)
                said += [f"> {ask}", *await _received(chat)]
    return said


async def _received(chat: Session) -> list[str]:
    said: list[str] = []
    text = ""
    async for part in chat.receive():
        match part.type:
            case "text":
                text += part.text
            case "tool_use":
                said, text = [*said, *_spoken(text)], ""
                said.append(f"  [{part.name} {part.input}]")
            case "tool_result":
                said.append(f"  [-> {part.content}]")
            case "message":
                said, text = [*said, *_spoken(text)], ""
            case "stop":
                used = part.usage.to_dict()
                read = used.get("cache_read_input_tokens", 0)
                said.append(f"  ({part.stop_reason}; {used.get('output_tokens', 0)} tokens out, {read} from the cache)")
    return said


def _spoken(text: str) -> list[str]:
    return [f"  {text}"] if text else []


def survive(stage: Stage) -> Iterator[str]:
    """A process that is killed in mid-turn, and resumed."""
    with stage.blocking() as store:
        before = store.version_at(LIVE_SESSION, HEAD)
        command = [sys.executable, "-m", "session.demo.killed", str(stage.store), LIVE_SESSION]
        with subprocess.Popen(command, env=stage.environment()) as process:  # noqa: S603 - our own program
            try:
                _wait_for_tools(store, before, process)
            finally:
                os.kill(process.pid, signal.SIGKILL)
        written = [found.type for found in store.events(LIVE_SESSION, after=before)]
        stage.figures |= {"events_before_kill": len(written), "exit_status": process.returncode}
        yield f"> {station.CALIBRATE}"
        yield f"Another process ran two tools; one had ended when it got kill -9 (exit status {process.returncode})."
        yield f"On disk from it: {', '.join(written)}"
    yield "Resumed here:"
    yield from asyncio.run(_resume(stage))
    with stage.blocking() as store:
        head = store.version_at(LIVE_SESSION, HEAD)
        repairs = [found.type for found in store.events(LIVE_SESSION, after=before + len(written))]
        stage.figures["events_after_resume"] = head - before - len(written)
        yield f"{repairs.count('session_repaired')} event says what was repaired; no tool ran twice."


def _wait_for_tools(store: BlockingEventSessionStorage, after: int, process: subprocess.Popen[bytes]) -> None:
    """Until one tool has returned and another is running."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < deadline:
        types = [found.type for found in store.events(LIVE_SESSION, after=after)]
        if types.count("tool_started") > types.count("tool_returned") > 0:
            return
        if process.poll() is not None:
            raise RuntimeError(f"the process to be killed ended by itself, with status {process.returncode}")
        time.sleep(_POLL_SECONDS)
    raise TimeoutError(f"no tool was running within {_WAIT_SECONDS:.0f} seconds")


async def _resume(stage: Stage) -> list[str]:
    async with (
        EventSessionStorage(stage.store) as storage,
        stage.session_options() as options,
        resume_session(LIVE_SESSION, take_over=True, session_storage=storage, **options) as chat,
    ):
        pending = chat.pending
        said = [f"  pending: {pending.kind}" if pending else "  nothing is pending"]
        said += [f"  in doubt: {run.name} (started, no outcome)" for run in chat.state.in_doubt if not run.result]
        return said + await _received(chat)


# --- 3, 4: forks, and the past ----------------------------------------------------------------------------------------


def fork(stage: Stage) -> Iterator[str]:
    """1,000 forks of a session of 10,000 messages."""
    with stage.blocking() as store:
        began = time.perf_counter()
        events: list[SessionEvent] = [SessionCreated(LONG_SESSION, origin="import")]
        events += map(_long_message, range(LONG_MESSAGES))
        store.append(LONG_SESSION, events, expected=0)
        size = store.state_at(LONG_SESSION, HEAD).messages.size_bytes
        yield f"A session of {LONG_MESSAGES:,} messages, {size / 1e6:.1f} MB: {time.perf_counter() - began:.2f} s"
        before, began = _file_bytes(stage), time.perf_counter()
        forks = store.fork_many(LONG_SESSION, FORKS, at=LONG_MESSAGES // 2 + 1)
        seconds, grown = time.perf_counter() - began, _file_bytes(stage) - before
        stage.figures |= {"fork_seconds": seconds, "fork_bytes": grown, "forks": len(forks), "message_bytes": size}
        yield (
            f"{len(forks):,} forks of it, durable: {seconds:.2f} s, {seconds / FORKS * 1e6:,.0f} microseconds each; "
            f"the file grew by {grown:,} bytes, {grown / FORKS:,.0f} each"
        )
        yield f"({FORKS:,} copies of the half they share would be {FORKS * size / 2 / 1e9:.1f} GB)"
        store.append(forks[0], [MessageAppended.of({"role": "user", "content": "another way"})])
        mine, theirs = store.load(forks[0]), store.load(forks[1])
        assert mine is not None
        assert theirs is not None
        yield f"The first goes on: it has {len(mine.messages):,} messages, the second still {len(theirs.messages):,}"


def _long_message(number: int) -> MessageAppended:
    role = "assistant" if number % 2 else "user"
    text = f"Reading {number}: " + " ".join(f"{(number * step) % 997 / 10:.1f}" for step in range(1, 200))
    return MessageAppended.of({"role": role, "content": text})


def _file_bytes(stage: Stage) -> int:
    return (stage.store / "data.mdb").stat().st_size


def look_back(stage: Stage) -> Iterator[str]:
    """The history at an earlier version."""
    with stage.blocking() as store:
        now, then = store.state_at(LIVE_SESSION, HEAD), store.state_at(LIVE_SESSION, "turn:1")
        yield f"{LIVE_SESSION} now:     version {now.version}, {len(now.messages)} messages"
        yield f"{LIVE_SESSION}@turn:1:  version {then.version}, {len(then.messages)} messages, the last one:"
        yield f"  {_last_text(then.messages[-1])}"
        stage.figures |= {"messages_now": len(now.messages), "messages_then": len(then.messages)}


def _last_text(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else " ".join(str(block.get("text", "")) for block in content).strip()


# --- 5, 6: verify, and conversations from elsewhere -------------------------------------------------------------------


def verify(stage: Stage) -> Iterator[str]:
    """Verify, before and after a byte is flipped in a copy."""
    with stage.blocking() as store:
        checkpoint = store.log.checkpoint()
    report = check_log(stage.store, checkpoint=checkpoint)
    stage.figures |= {"verified_events": report.events, "verify_seconds": report.seconds}
    found = report.problems
    yield f"{report.events:,} events in {report.streams:,} sessions, {report.seconds:.2f} s: {_problems(found)}"
    copy = stage.directory / "damaged"
    shutil.copytree(stage.store, copy)
    data = (copy / "data.mdb").read_bytes()
    (copy / "data.mdb").write_bytes(data.replace(_TRUE, _FALSE))  # wherever it stands: also where old pages linger
    found = check_log(copy, checkpoint=checkpoint).problems
    stage.figures["problems_in_damaged_copy"] = len(found)
    yield f"One bit flipped in a copy ({_TRUE.decode()} -> {_FALSE.decode()}): {_problems(found)}"
    yield from (f"  {problem}" for problem in found[:3])
    shutil.rmtree(copy)


def _problems(found: list[Any]) -> str:
    return "1 problem" if len(found) == 1 else f"{len(found) or 'no'} problems"


def take_in(stage: Stage) -> Iterator[str]:
    """Three conversations that were recorded elsewhere."""
    with stage.blocking() as store:
        outcomes = [outcome for outcome in import_path(store, CONVERSATIONS) if isinstance(outcome, Imported)]
        yield f"From {CONVERSATIONS}:"
        for outcome in outcomes:
            state = store.state_at(outcome.session_id, HEAD)
            parted = f", a fork of {state.parent_id}@{state.forked_at}" if state.parent_id else ""
            yield f"  {state.id}: {len(state.messages)} messages{parted}"
        stage.figures["imported"] = len(outcomes)


STEPS: Final = (
    Step("converse", "A conversation with tools", converse),
    Step("survive", "A process killed with -9 in mid-turn, and resumed", survive),
    Step("fork", f"{FORKS:,} forks of a session of {LONG_MESSAGES:,} messages", fork),
    Step("look_back", "The history at an earlier version", look_back),
    Step("verify", "Verify, before and after one bit is flipped in a copy", verify),
    Step("take_in", "Three conversations from elsewhere", take_in),
)
