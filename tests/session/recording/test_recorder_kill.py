"""`kill -9` of a recorded program: every block that it had seen is in the log, and what was open is marked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from eventstore.verify import verify
from session import jsontext
from session.events import BlockReceived, ResponseInterrupted, ResponseReceived
from session.recording import Recorder
from session.storage import BlockingEventSessionStorage
from session.testing import Reply, ScriptedApi, calls, says
from tests.session.recording.kit import ASK, user

if TYPE_CHECKING:
    from collections.abc import Iterator

    from session.testing._server import LoopbackServer

REPOSITORY = Path(__file__).parents[3]
SEEN_BY_A_WHOLE_PROGRAM = 9


class Programs:
    """Starts programs and kills them when they have seen so much."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.session.recording.recording_client"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY, text=True, bufsize=1
        )
        assert self._next() == ["ready", None]

    def close(self) -> None:
        self._process.communicate()

    def run(self, path: Path, session_id: str, port: int, *, kill_after: int) -> tuple[list[list[Any]], int]:
        """What a program saw until it was killed or had ended, and how it ended."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{path} {session_id} {port}\n")
        self._process.stdin.flush()
        seen: list[list[Any]] = []
        pid = 0
        while True:
            what, value = self._next()
            if what == "began":
                pid = value
            elif what == "ended":
                return seen, value
            else:
                seen.append([what, value])
            if pid and len(seen) == kill_after:
                os.kill(pid, signal.SIGKILL)

    def _next(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


@pytest.fixture(scope="module")
def programs() -> Iterator[Programs]:
    running = Programs()
    yield running
    running.close()


@pytest.fixture(scope="module")
def server() -> Iterator[LoopbackServer]:
    content: Any = [says("Some text. " * 9), says("More text. " * 9)]
    with ScriptedApi(lambda _body, _number: Reply(content=content, chunk_bytes=64)).serve() as running:
        yield running


@pytest.mark.parametrize(
    "rounds", [pytest.param(range(SEEN_BY_A_WHOLE_PROGRAM)), pytest.param(range(45), marks=pytest.mark.slow)]
)
def test_every_block_that_a_killed_program_had_seen_is_in_the_log(
    programs: Programs, server: LoopbackServer, tmp_path: Path, rounds: range
) -> None:
    path = tmp_path / "log"
    for number in rounds:
        session_id = f"run-{number}"
        seen, status = programs.run(path, session_id, server.port, kill_after=number % SEEN_BY_A_WHOLE_PROGRAM)
        assert status in {0, signal.SIGKILL}
        with BlockingEventSessionStorage(path) as storage:
            _check(storage, session_id, seen)
            _goes_on(storage, session_id)
    assert verify(path)


def _check(storage: BlockingEventSessionStorage, session_id: str, seen: list[list[Any]]) -> None:
    state = storage.load(session_id)
    events = [stored.event for stored in storage.events(session_id)] if state else []
    blocks = [jsontext.parse(event.block) for event in events if isinstance(event, BlockReceived)]
    messages = [event.message_id for event in events if isinstance(event, ResponseReceived)]
    shown = [value for what, value in seen if what == "block"]
    ended = [value for what, value in seen if what == "message"]
    assert blocks[: len(shown)] == shown
    assert messages[: len(ended)] == ended
    if state is not None:
        assert len(state.messages) == 2 * len(messages) + (state.status in {"running", "waiting"})


def _goes_on(storage: BlockingEventSessionStorage, session_id: str) -> None:
    """The next run marks what was left open, and what it had is there."""
    before = storage.load(session_id)
    if before is None:
        return
    recorder = Recorder(storage, session=session_id)
    with ScriptedApi([Reply(content=[calls("t", {}, "toolu_1")])]).client(middleware=[recorder]) as client:
        history = [*before.messages, *([] if before.status in {"running", "waiting"} else [user("Next")])]
        client.messages.create(messages=history, **ASK)
    after = storage.load(session_id)
    assert after is not None
    assert after.messages.raw[: len(before.messages)] == before.messages.raw
    lost = [s.event for s in storage.events(session_id, after=before.version)]
    marked = [event.request_id for event in lost if isinstance(event, ResponseInterrupted) and event.reason == "lost"]
    assert marked == [response.request_id for response in before.responses if not response.cut]
    assert after.pending is not None
    assert after.pending.kind == "tool_use"
