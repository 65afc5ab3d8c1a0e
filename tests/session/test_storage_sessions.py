"""Real sessions (or, where the data is not there, generated ones like them) through all five storages and a fork."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from session import jsontext
from session.state import SessionState
from session.storage import EventSessionStorage, create_session_storage
from session.testing.storage_contract import check_same
from session.usage import Usage
from tests.session.storage_server import Server, running_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from session.storage import SessionStorage

SHARED = Path(__file__).parents[3] / "shared" / "data" / "agent-sessions.jsonl"
KINDS = ("memory", "file", "sqlite", "redis", "events")
WORDS = ("colon", "é", "\u2028", "\n", '"', "\\", "日本", "\ud83d", "\0", "</script>", "1.10")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


def recorded() -> list[SessionState]:
    """The sessions of the shared data, each message as the exact bytes of its line."""
    if not SHARED.exists():
        return []
    states = []
    for line in SHARED.read_bytes().splitlines():
        members = jsontext.members(line)
        session_id, raws = jsontext.parse(members["id"]), jsontext.items(members["messages"])
        states.append(SessionState.new(session_id, messages=raws, metadata={"source": "shared"}, now=7))
    assert len(states) == 13
    return states


def generated() -> list[SessionState]:
    chance = random.Random(20)
    return [
        SessionState.new(
            f"generated-{number}",
            messages=[message for turn in range(chance.randrange(1, 15)) for message in _turn(chance, turn)],
            usage=Usage.from_raw({"input_tokens": chance.randrange(10**6)}, chance.randrange(10**12)),
            metadata={"title": _text(chance)},
            now=chance.randrange(1, 10**12),
        )
        for number in range(13)
    ]


def _text(chance: random.Random) -> str:
    return "".join(chance.choices(WORDS, k=chance.randrange(1, 60)))


def _turn(chance: random.Random, turn: int) -> Iterator[bytes]:
    calls = [f"toolu_{turn}_{number}" for number in range(chance.randrange(3))]
    used = [{"type": "tool_use", "id": call, "name": "f", "input": {_text(chance): 1.5}} for call in calls]
    results = [{"type": "tool_result", "tool_use_id": call, "content": _text(chance)} for call in calls]
    yield _raw(chance, {"role": "user", "content": _text(chance)})
    yield _raw(chance, {"role": "assistant", "content": [{"type": "text", "text": _text(chance)}, *used]})
    if results:
        yield _raw(chance, {"role": "user", "content": results})


def _raw(chance: random.Random, message: dict[str, Any]) -> bytes:
    """As any program might write it."""
    text = json.dumps(message, ensure_ascii=chance.random() < 0.5, indent=chance.choice([None, 1]))
    return text.encode("utf-8", "backslashreplace")


def opened(kind: str, path: Path, server: Server) -> SessionStorage:
    options = {"file": {"directory": path}, "redis": {"url": server.url}, "memory": {}}
    return create_session_storage(kind, **options.get(kind, {"path": path / "store"}))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("states", [generated(), recorded()], ids=["generated", "recorded"])
def test_sessions_round_trip_byte_for_byte(
    kind: str, states: list[SessionState], tmp_path: Path, server: Server
) -> None:
    async def main() -> None:
        storage = opened(kind, tmp_path, server)
        try:
            for state in states:
                await storage.save(state)
            for state in states:
                check_same(await storage.load(state.id), state)
            assert {state.id for state in states} <= set(await storage.list())
        finally:
            await getattr(storage, "aclose", _nothing)()

    asyncio.run(main())


def test_sessions_saved_message_by_message_are_those_saved_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with EventSessionStorage(tmp_path, durability="os") as storage:
            for state in (*generated(), *recorded()):
                growing = await storage.save(state.replace(messages=[]))
                for message in state.messages.entries:
                    growing = await storage.save(growing.adding(message))
                check_same(await storage.load(state.id), state)
                child = await storage.fork(state.id)
                forked = await storage.load(child)
                assert forked is not None
                assert forked.messages.raw == state.messages.raw

    asyncio.run(main())


async def _nothing() -> None:
    pass
