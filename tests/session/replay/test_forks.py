"""Runs that were forked: what they share is read once, and what was beside it is there, however far back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from eventstore import MemoryEventLog
from session.recording import Recorder
from session.replay import Replayer
from session.replay._run import read_lanes
from session.storage import EventSessionStorage
from session.storage._now import run_now
from session.testing import ScriptedApi
from tests.session.recording.kit import ASK, in_memory, user
from tests.session.replay.kit import ask, numbered, replay, run

if TYPE_CHECKING:
    from anthropic import Anthropic


@pytest.mark.parametrize("second", [2, 4])
def test_the_recording_of_a_second_live_run_has_what_the_first_run_did_beside_it(second: int) -> None:
    storage, api = in_memory(), ScriptedApi(numbered)

    def program(client: Anthropic, changed: int) -> list[str]:
        talk: list[Any] = []
        seen = []
        for number in range(5):
            talk.append(user(f"Ask {number}{'!' * (number == changed)}"))
            answer = client.messages.create(messages=talk, **ASK)
            seen.append(answer.to_json())
            talk.append({"role": "assistant", "content": answer.content})
            if number == 0:
                seen.append(ask(client, [user("Help")], system="A helper"))
        return seen

    def live(session_id: str, changed: int) -> tuple[str, list[str]]:
        with Replayer(storage, session_id, on_divergence="live") as replayer:
            seen = run(lambda client: program(client, changed), api.client, replayer)
            assert replayer.live is not None
            return replayer.live.sessions[0], seen

    run(lambda client: program(client, -1), api.client, Recorder(storage, session="r"))
    first, _ = live("r", 3)
    fork, seen = live(first, second)
    assert replay(lambda client: program(client, second), storage, fork) == seen
    run_now(storage.delete(first))
    assert replay(lambda client: program(client, second), storage, fork) == seen


class CountingLog(MemoryEventLog):
    """Counts the events that are read."""

    count = 0

    async def read(self, stream: str, **options: Any) -> Any:
        found = await super().read(stream, **options)
        self.count += len(found)
        return found


def test_what_forks_share_with_their_parent_is_read_once() -> None:
    log = CountingLog()
    storage = EventSessionStorage(log)

    def tree_search(client: Anthropic) -> list[str]:
        talk: list[Any] = []
        for number in range(10):
            talk.append(user(f"Ask {number}"))
            talk.append({"role": "assistant", "content": client.messages.create(messages=talk, **ASK).content})
        tries = [ask(client, [*talk[:turn], user("Try")]) for turn in (20, 20, 20, 10, 4, 4)]
        return [*tries, *(ask(client, [*talk[:20], user("Try"), user(f"And {number}")]) for number in range(3))]

    recorded = run(tree_search, ScriptedApi(numbered).client, Recorder(storage, session="r"))
    held = len(run_now(log.read_all(limit=10_000)))
    log.count = 0
    lanes = run_now(read_lanes(storage, "r"))
    assert len(lanes) > 5
    assert log.count < 1.2 * held
    assert replay(tree_search, storage, "r") == recorded
