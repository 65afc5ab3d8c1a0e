"""What does the store do for one turn of a live session, and does it grow with the history?

A turn: an ask, an answer that calls a tool, its result, an answer. That is every append a live session makes (ten
commits, each durable before the next begins), the fold of each event, and the looks at the end of the history that
decide how to go on. Not in it: building the request, which is as long as the history.

Bar: at most 1.3x at 10,000 messages of what it is at 100. With `durability="os"` the disk hides nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Literal

from bench.harness import Contestant, Finding, Result, Size, content_hash, interleave, ratio
from bench.report import run_alone
from bench.workload import Text
from session.codec import encode_event
from session.events import (
    NO_META,
    BlockReceived,
    MessageAppended,
    PromptChanged,
    RequestSent,
    ResponseReceived,
    SessionCreated,
    ToolReturned,
    ToolStarted,
    UsageRecorded,
)
from session.live import _journal, _tail
from session.storage import EventSessionStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from session.events import SessionEvent
    from session.live._journal import Journal

QUESTION = "what does the store do for one turn of a live session, and does it grow with the history?"
MESSAGES_PER_TURN = 4
TURNS_PER_APPEND = 100
USAGE = b'{"input_tokens":12,"cache_creation_input_tokens":840,"cache_read_input_tokens":21504,"output_tokens":310}'


def run(size: Size) -> Result:
    """Each round goes on from forks of two histories, so that these stay as long as they are."""
    long, short = size.pick(full=10_000, small=40), size.pick(full=100, small=8)
    turns = size.pick(full=40, small=2)
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(size.scratch())
        runner = stack.enter_context(asyncio.Runner())
        contestants: list[Contestant] = []
        newest: dict[str, Callable[[], str]] = {}
        for durability in _DURABILITIES:
            storage = EventSessionStorage(directory / f"{durability}.refold", durability=durability)
            stack.callback(_close, runner, storage)
            for messages in (long, short):
                name = f"{durability}, {messages:,} messages"
                history = _History(runner, storage, messages, turns)
                contestants.append(Contestant(name, durability, history.play))
                newest[name] = history.newest_hash
        series = interleave(size, contestants)
        hashes = {name: hashed() for name, hashed in newest.items()}
    findings = [
        Finding(
            f"{durability}: {long:,} messages / {short:,}",
            ratio(series[f"{durability}, {long:,} messages"], series[f"{durability}, {short:,} messages"]),
            at_most=1.3,
        )
        for durability in _DURABILITIES
    ]
    return Result(QUESTION, list(series.values()), findings, {f"the last {turns} turns": hashes})


_DURABILITIES: tuple[Literal["disk", "os"], ...] = ("disk", "os")


def _close(runner: asyncio.Runner, storage: EventSessionStorage) -> None:
    runner.run(storage.aclose())


class _History:
    """A session of so many messages, and what is added to forks of it."""

    def __init__(self, runner: asyncio.Runner, storage: EventSessionStorage, messages: int, turns: int) -> None:
        self._runner = runner
        self._storage = storage
        self._turns = turns
        self._id = f"history_{messages}"
        self._newest = ""
        runner.run(self._fill(messages // MESSAGES_PER_TURN))

    def play(self, number: int) -> float:
        """The seconds of one turn, the mean over some."""
        return self._runner.run(self._go_on(number))

    def newest_hash(self) -> str:
        """Of what the last round added, requests apart: they count the messages before them."""
        return self._runner.run(self._hash())

    async def _fill(self, turns: int) -> None:
        text = Text(0)
        batch: list[SessionEvent] = [SessionCreated(self._id), PromptChanged(model="claude-sonnet-5-5")]
        version = 0
        for number in range(turns):
            for commit in _turn(text, f"old_{number}", MESSAGES_PER_TURN * number):
                batch += commit
            if (number + 1) % TURNS_PER_APPEND == 0 or number + 1 == turns:
                version = (await self._storage.append(self._id, batch, expected=version)).version
                batch = []

    async def _go_on(self, number: int) -> float:
        self._newest = await self._storage.fork(self._id)
        journal = await _journal.load(self._storage, self._newest, NO_META)
        text = Text(number + 1)
        plans = [list(_turn(text, f"new_{turn}", 0)) for turn in range(self._turns)]
        began = time.perf_counter()
        for commits in plans:
            await _live(journal, commits)
        return (time.perf_counter() - began) / self._turns

    async def _hash(self) -> str:
        state = await self._storage.load(self._newest)
        assert state is not None
        own = state.forked_at + 1  # the event that says it is a fork names the parent
        events = [stored.event async for stored in self._storage.events(self._newest, after=own)]
        return content_hash(encode_event(event)[1] for event in events if not isinstance(event, RequestSent))


async def _live(journal: Journal, commits: list[list[SessionEvent]]) -> None:
    """As `session.live` does it: look at the end, append, fold."""
    for commit in commits:
        if isinstance(commit[0], MessageAppended | RequestSent):
            _tail.pending(journal.fold)
            _tail.in_doubt(journal.fold)
        await journal.record(*commit)
    _tail.newest(journal.fold)


def _turn(text: Text, name: str, messages: int) -> Iterator[list[SessionEvent]]:
    """The commits of one turn."""
    yield [MessageAppended.of(b'{"role":"user","content":"%b"}' % text.take(200))]
    yield [RequestSent(f"{name}_1", messages + 1, stream=True)]
    yield [BlockReceived(f"{name}_1", 0, _block(text.take(600)))]
    call = b'{"type":"tool_use","id":"toolu_%b","name":"read","input":{"path":"a.md"}}' % name.encode()
    yield [BlockReceived(f"{name}_1", 1, call, f"toolu_{name}")]
    yield _completed(f"{name}_1", "tool_use", 2)
    yield [ToolStarted(f"toolu_{name}", "read")]
    result = b'{"type":"tool_result","tool_use_id":"toolu_%b","content":"%b"}' % (name.encode(), text.take(3_000))
    yield [ToolReturned(f"toolu_{name}", result, duration_ms=12)]
    yield [RequestSent(f"{name}_2", messages + 3, stream=True)]
    yield [BlockReceived(f"{name}_2", 0, _block(text.take(900)))]
    yield _completed(f"{name}_2", "end_turn", 1)


def _completed(request_id: str, stop_reason: str, blocks: int) -> list[SessionEvent]:
    usage = UsageRecorded(USAGE, "claude-sonnet-5-5", "standard", 9_000_000_000, "1", request_id)
    return [usage, ResponseReceived(request_id, f"msg_{request_id}", "", stop_reason, blocks=blocks)]


def _block(text: bytes) -> bytes:
    return b'{"type":"text","text":"%b"}' % text


if __name__ == "__main__":
    run_alone(__file__, run)
