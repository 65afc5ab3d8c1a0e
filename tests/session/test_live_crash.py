"""`kill -9` in the middle of `receive`: what was acknowledged is there, and the session goes on."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from anthropic import AsyncAnthropic

from eventstore.verify import verify
from session.errors import SessionNotFoundError
from session.events import ToolRefused, ToolReturned, ToolStarted
from session.lint import IN_DOUBT
from session.live import resume_session
from session.storage import EventSessionStorage
from session.testing import Delay, ScriptedApi, tool_using_model
from tests.session.live_client import tools_of
from tests.session.live_kit import events_of, in_loop, talk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from session.events import AnyEvent
    from session.live import Session
    from session.testing._server import LoopbackServer

REPOSITORY = Path(__file__).parents[2]


class Clients:
    """Starts clients, reads what they acknowledge, and kills them."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.session.live_client"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY)
        self._rest = b""
        assert self._next(None) == ["ready", None]

    def close(self) -> None:
        self._process.communicate()

    def run(
        self, path: Path, session_id: str, port: int, *, kill_after: int | None = None, kill_at: float | None = None
    ) -> tuple[list[list[Any]], float]:
        """What a client acknowledged until it ended, or was killed: behind the n-th acknowledgement, or after so many
        seconds. And how long it ran.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(f"{path} {session_id} {port}\n".encode())
        self._process.stdin.flush()
        pid: int = self._expect("began")
        began = time.monotonic()
        deadline = None if kill_at is None else began + kill_at
        acknowledged: list[list[Any]] = []
        while True:
            if kill_after is not None and len(acknowledged) >= kill_after:
                os.kill(pid, signal.SIGKILL)
                kill_after = None
            line = self._next(deadline)
            if line is None:
                os.kill(pid, signal.SIGKILL)
                deadline = None
            elif line[0] == "ended":
                return acknowledged, time.monotonic() - began
            else:
                acknowledged.append(line)

    def _expect(self, what: str) -> Any:
        line = self._next(None)
        assert line is not None
        assert line[0] == what, line
        return line[1]

    def _next(self, deadline: float | None) -> list[Any] | None:
        """The next line; None if there is none until then."""
        assert self._process.stdout is not None
        while b"\n" not in self._rest:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._process.stdout], [], [], left)[0]:
                return None
            read = os.read(self._process.stdout.fileno(), 65_536)
            assert read, "the clients' process has died"
            self._rest += read
        line, self._rest = self._rest.split(b"\n", 1)
        parsed: list[Any] = json.loads(line)
        return parsed


@pytest.fixture(scope="module")
def clients() -> Iterator[Clients]:
    started = Clients()
    yield started
    started.close()


def scripted() -> ScriptedApi:
    model = tool_using_model(rounds=1, parallel=2)
    delay = Delay(before_seconds=0.001, between_seconds=0.001)
    return ScriptedApi(lambda body, number: msgspec.structs.replace(model(body, number), delay=delay))


@pytest.mark.parametrize("kills", [5, pytest.param(120, marks=pytest.mark.slow)])
@in_loop
async def test_killed_at_any_point_a_session_has_what_was_acknowledged_and_goes_on(
    kills: int, clients: Clients, tmp_path: Path
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance, path, api = random.Random(seed), tmp_path / "log.refold", scripted()
    with api.serve() as server:
        whole, seconds = clients.run(path, "uninterrupted", server.port)
        assert whole[-1][0] == "stop"
        for number in range(kills):
            session_id = f"killed_{number}"
            if number % 2:
                told, _ = clients.run(path, session_id, server.port, kill_after=chance.randrange(len(whole)))
            else:
                told, _ = clients.run(path, session_id, server.port, kill_at=chance.random() * seconds)
            await check(path, session_id, told, api, server)
    assert verify(path).problems == []


async def check(path: Path, session_id: str, told: list[list[Any]], api: ScriptedApi, server: LoopbackServer) -> None:
    client = AsyncAnthropic(api_key="none", base_url=f"http://127.0.0.1:{server.port}", max_retries=0)
    options: dict[str, Any] = {"client": client, "tools": tools_of(path, session_id), "take_over": True}
    async with client, EventSessionStorage(path) as storage:
        try:
            chat = await resume_session(session_id, session_storage=storage, **options)
        except SessionNotFoundError:
            assert told == []
            return
        check_acknowledged(chat, told)
        before = await events_of(storage, session_id)
        check_starts(before, session_id, path)
        asked = len(api.calls)
        await talk(chat, None if chat.pending else "Go on")
        assert [call.status for call in api.calls[asked:]] == [200] * (len(api.calls) - asked)
        assert len(api.calls) > asked
        check_tools(before, api.calls[-1].json["messages"])


def check_acknowledged(chat: Session, told: list[list[Any]]) -> None:
    messages = list(chat.state.messages)
    results = {block["tool_use_id"]: block["content"] for block in blocks_of(messages, "tool_result")}
    calls = {block["id"] for block in blocks_of(messages, "tool_use")}
    for what, value in told:
        match what:
            case "sent":
                assert {"role": "user", "content": value} in messages
            case "message":
                assert value in messages
            case "tool_use":
                assert value in calls
            case "tool_result":
                assert results[value[0]] == value[1]
            case "stop":
                assert chat.state.version >= value


def check_starts(events: list[AnyEvent], session_id: str, path: Path) -> None:
    """No tool began before its start was in the log."""
    trace = path.with_suffix(".begun")
    begun = trace.read_text().splitlines() if trace.exists() else []
    started = sum(isinstance(event, ToolStarted) for event in events)
    assert begun.count(session_id) <= started


def check_tools(before: list[AnyEvent], messages: list[dict[str, Any]]) -> None:
    """Each result that was recorded was sent, each tool that was started without one is said to be in doubt."""
    sent = {block["tool_use_id"]: block for block in blocks_of(messages, "tool_result")}
    ended = [event for event in before if isinstance(event, ToolReturned | ToolRefused)]
    for event in ended:
        assert sent[event.tool_use_id] == json.loads(event.result)
    doubtful = {event.tool_use_id for event in before if isinstance(event, ToolStarted)}
    for tool_use_id in doubtful - {event.tool_use_id for event in ended}:
        assert sent[tool_use_id]["content"] == IN_DOUBT
        assert sent[tool_use_id]["is_error"]


def blocks_of(messages: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    lists = [message["content"] for message in messages if isinstance(message["content"], list)]
    return [block for content in lists for block in content if block["type"] == kind]
