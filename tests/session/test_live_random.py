"""Sessions at random: whatever is done in whatever order, and whatever the API answers, the session goes on.

After each step the log and what the session knows are one, and no request was refused for what we sent.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import anthropic
import msgspec
import pytest
from anthropic import beta_async_tool, beta_tool

from session.errors import MessageSetAsideError, NothingToAnswerError, ResponseCutError, ThinkingBoundError
from session.fold import fold
from session.live import Session, create_session, fork_session, resume_session
from session.state import SessionState
from session.testing import Cut, Failure, Reply, ScriptedApi, StreamError, says, thinks, tool_using_model
from tests.session.live_kit import MODEL, in_loop, in_memory, talk
from tests.session.test_live_cancel import CancelledAt

if TYPE_CHECKING:
    from collections.abc import Callable

REFUSED_BY_SCRIPT = "The script says no."
STEPS = 14


class NoTerminalError(Exception):
    pass


EXPECTED = (
    anthropic.APIError,
    MessageSetAsideError,
    NoTerminalError,
    NothingToAnswerError,
    ResponseCutError,
    ThinkingBoundError,
)


@beta_async_tool
async def slow(word: str) -> str:
    """Takes a few rounds of the loop, and does not like some words."""
    for _ in range(3):
        await asyncio.sleep(0)
    if word in ("main", "status"):
        raise ValueError(word)
    return word


@beta_tool
def quick(word: str) -> str:
    """Runs in a thread."""
    return word


def scripted(chance: random.Random, seed: int) -> Callable[[dict[str, Any], int], Any]:
    model = tool_using_model(rounds=2, parallel=2, seed=seed)

    def script(body: dict[str, Any], number: int) -> Any:
        newest = body["messages"][-1]
        paused = newest["role"] == "assistant"
        if paused:
            found = {"type": "web_search_tool_result", "tool_use_id": newest["content"][-1]["id"], "content": []}
            content: list[Any] = [found, says("Found.")]
            reply = Reply(content=content)
        else:
            reply = model(body, number)
        search = {"type": "server_tool_use", "id": f"srvtoolu_{number}", "name": "web_search", "input": {}}
        little: list[list[Any]] = [[], [says("")], [says(" ")], [thinks("x")]]
        stops = ["refusal", "max_tokens", "end_turn", "model_context_window_exceeded"]
        odd: list[Callable[[], Any]] = [
            lambda: Failure(status=chance.choice([529, 500, 429])),
            lambda: Failure(status=400, message=REFUSED_BY_SCRIPT),
            lambda: msgspec.structs.replace(reply, cut=Cut(after_events=chance.randrange(12), how=_how(chance))),
            lambda: msgspec.structs.replace(reply, error=StreamError(after_events=chance.randrange(10))),
            lambda: reply if paused else msgspec.structs.replace(reply, stop_reason=chance.choice(stops)),
            lambda: reply if paused else Reply(content=chance.choice(little)),
            lambda: reply if paused else Reply(content=[thinks("Hm."), search], stop_reason="pause_turn"),
        ]
        return chance.choice(odd)() if chance.random() < 0.4 else reply

    return script


def _how(chance: random.Random) -> Any:
    return chance.choice(["end", "close", "reset"])


class Program:
    """Does something with a session, and has it still."""

    def __init__(self, chance: random.Random, options: dict[str, Any]) -> None:
        self._chance = chance
        self._options = {**options, "can_use_tool": self._ask}
        self._chat: Session

    @property
    def chat(self) -> Session:
        return self._chat

    async def begin(self) -> None:
        self._chat = await create_session(model=MODEL, system="A", **self._options)

    async def _ask(self, _name: str, _input: dict[str, Any]) -> bool | str:
        if self._chance.random() < 0.07:
            raise NoTerminalError
        return self._chance.random() < 0.85 or "No."

    async def step(self) -> None:
        """One thing, perhaps cancelled on the way. Afterwards the session is open."""
        does = self._chance.choice([self.say, self.say, self.go_on, self.leave, self.rewind, self.fork, self.reopen])
        try:
            await CancelledAt(does(), self._chance.choice([0, 0, self._chance.randrange(1, 60)]))
        except (asyncio.CancelledError, *EXPECTED):
            self._chat = await resume_session(self._chat.id, **self._options)

    async def say(self) -> None:
        await talk(self._chat, self._chance.choice(["Go", [says("Do")], "More"]))

    async def go_on(self) -> None:
        await talk(self._chat)

    async def leave(self) -> None:
        left = self._chance.randrange(8)
        async for _ in self._chat.receive():
            left -= 1
            if left < 0:
                break

    async def rewind(self) -> None:
        version = self._chance.randrange(self._chat.state.version + 1)
        await self._chat.rewind(version, strip_thinking=self._chance.random() < 0.5)

    async def fork(self) -> None:
        old, version = self._chat, self._chance.randrange(2, self._chat.state.version + 1)
        if self._chance.random() < 0.5:
            self._chat = await old.fork(at=version)
        else:
            self._chat = await fork_session(old.id, at=version, **self._options)
        await old.close()

    async def reopen(self) -> None:
        await self._chat.close()
        strip, system = self._chance.random() < 0.7, self._chance.choice(["A", "B", None])
        self._chat = await resume_session(self._chat.id, system=system, strip_thinking=strip, **self._options)

    async def end(self) -> None:
        """Until nothing is pending."""
        while True:
            try:
                await talk(self._chat, None if self._chat.pending else "End")
            except EXPECTED:
                continue
            if self._chat.pending is None:
                return


@pytest.mark.parametrize("seeds", [range(6), pytest.param(range(6, 150), marks=pytest.mark.slow)])
@in_loop
async def test_whatever_happens_a_session_goes_on(seeds: range) -> None:
    for seed in seeds:
        chance, storage = random.Random(seed), in_memory()
        api = ScriptedApi(scripted(chance, seed))
        async with api.async_client() as client:
            options = {"tools": [slow, quick], "session_storage": storage, "client": client}
            program = Program(chance, options)
            await program.begin()
            for _ in range(STEPS):
                await program.step()
                chat = program.chat
                stored = [event async for event in storage.events(chat.id)]
                assert fold(stored, SessionState(id=chat.id)) == chat.state, seed
            await asyncio.wait_for(program.end(), 30)
            refused = {call.error for call in api.calls if call.status == 400}
            assert refused <= {REFUSED_BY_SCRIPT}, seed
