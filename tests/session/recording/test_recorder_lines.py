"""Whatever a program does with its conversations, each call stands in the log as it was made."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import anthropic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import Event
from session.events import RequestSent
from session.recording import Recorder
from session.recording._lines import _WHOLE_LINES, Line, Lines, _first_difference
from session.recording.digests import START, message_digest, prompt_digest
from session.storage._now import run_now
from session.testing import Cut, Failure, Reply, ScriptedApi, StreamError, calls, says
from tests.session.recording.kit import ASK, events_of, in_memory, state_of, stored_of, user

SYSTEMS = ("", "Be brief.", "Be long.")
MOVES = ("go on", "go on", "go on", "again", "earlier", "edit", "new", "other system", "tools", "partial")
ANSWERS: list[Any] = [
    Reply(content=[says("Yes.")]),
    Reply(content=[says("Let me."), calls("t", {"n": 1}, "toolu_1"), calls("t", {"n": 2}, "toolu_2")]),
    Reply(content="", stop_reason="refusal"),
    Reply(content="Cut.", cut=Cut(after_events=4)),
    Reply(content="Error.", error=StreamError(after_events=4)),
    Failure(status=500, headers={"x-should-retry": "false"}),
]


class Program:
    """Makes calls as a list of choices says, in several conversations, and remembers what it asked."""

    def __init__(self, client: anthropic.Anthropic, choices: list[tuple[str, int]], seed: int) -> None:
        self._client = client
        self._chance = random.Random(seed)
        self._known: list[tuple[str, list[Any]]] = [("", [])]
        for move, which in choices:
            self._call(*self._next(move, which))

    def _next(self, move: str, which: int) -> tuple[str, list[Any], bool]:
        system, history = self._known[-1 - which % len(self._known)]
        history = list(history)
        if move == "new":
            return SYSTEMS[which % 3], [user(f"Begin {which}")], False
        if move == "earlier" and len(history) > 1:
            history = history[: 1 + which % len(history)]
            history = history if history[-1]["role"] == "user" else history[:-1]
            return system, history, bool(which % 2)
        if move == "edit" and history:
            history[which % len(history)] = {**history[which % len(history)], "content": f"Edited {which}"}
        if move == "other system":
            system = SYSTEMS[(SYSTEMS.index(system) + 1) % 3]
        if move == "again" and history and history[-1]["role"] == "user":
            return system, history, bool(which % 2)
        return system, [*history, *self._answering(history, partial=move == "partial")], bool(which % 2)

    def _answering(self, history: list[Any], *, partial: bool) -> list[Any]:
        last = history[-1]["content"] if history else ""
        uses = [block["id"] for block in last if isinstance(block, dict) and block["type"] == "tool_use"]
        results: list[Any] = [{"type": "tool_result", "tool_use_id": use, "content": "ok"} for use in uses]
        if partial:
            results.append({"type": "text", "text": "And?", "cache_control": {"type": "ephemeral"}})
        return [{"role": "user", "content": results} if results else user(f"Ask {self._chance.randrange(3)}")]

    def _call(self, system: str, history: list[Any], stream: bool) -> None:
        options = {**ASK, "messages": history, **({"system": system} if system else {})}
        self._known.append((system, history))
        with contextlib.suppress(anthropic.APIError):
            if stream:
                with self._client.messages.stream(**options) as reading:
                    answer: Any = reading.get_final_message()
            else:
                answer = self._client.messages.create(**options)
            if answer.stop_reason is not None and answer.content:
                content = [block.to_dict() for block in answer.content]
                self._known[-1] = (system, [*history, {"role": "assistant", "content": content}])


CHOICES = st.lists(st.tuples(st.sampled_from(MOVES), st.integers(0, 7)), min_size=1, max_size=12)


def check(choices: list[tuple[str, int]], answers: list[Any], seed: int) -> None:
    storage = in_memory()
    script = lambda _body, number: answers[number % len(answers)]  # noqa: E731
    api = ScriptedApi(script, check_thinking=False)
    recorder = Recorder(storage)
    Program(api.client(middleware=[recorder]), choices, seed)
    records = [record for record in run_now(storage.log.read_all(limit=10_000)) if isinstance(record, Event)]
    requests = [(record.stream, record.version) for record in records if record.type == "request_sent"]
    assert len(requests) == len(api.calls)
    for (session_id, version), call in zip(requests, api.calls, strict=True):
        state, body = state_of(storage, session_id, version), call.json
        event = stored_of(storage, session_id, after=version - 1)[0].event
        assert isinstance(event, RequestSent)
        assert event.messages == len(state.messages) == len(body["messages"])
        assert [*map(message_digest, state.messages)] == [*map(message_digest, body["messages"])]
        system = state.prompt.system
        assert prompt_digest(None, body.get("system")) == prompt_digest(None, system.decode()[1:-1] if system else None)
    for session_id in recorder.sessions:
        assert state_of(storage, session_id).status != "running"
        assert sum(event.type == "session_created" for event in events_of(storage, session_id)) == 1
    if len(recorder.sessions) > 1:
        assert len(set(recorder.sessions)) == len(recorder.sessions)


@given(CHOICES, st.lists(st.sampled_from(ANSWERS), min_size=1, max_size=4), st.integers(0, 9))
@settings(max_examples=40)
def test_each_request_can_be_read_back_from_where_it_was_recorded(
    choices: list[tuple[str, int]], answers: list[Any], seed: int
) -> None:
    check(choices, answers, seed)


@pytest.mark.slow
@given(CHOICES, st.lists(st.sampled_from(ANSWERS), min_size=1, max_size=4), st.integers(0, 99))
@settings(max_examples=250)
def test_each_request_can_be_read_back_after_many_more_moves(
    choices: list[tuple[str, int]], answers: list[Any], seed: int
) -> None:
    check(choices * 2, answers, seed)


class Watched(Line):
    """Counts how often a line is looked at."""

    looks = 0

    def prompt_at(self, count: int) -> Any:
        Watched.looks += 1
        return super().prompt_at(count)


def test_of_many_samples_of_one_prompt_the_next_is_placed_by_a_look_at_few() -> None:
    """Each goes on from the same ask, answered otherwise."""
    lines = Lines()
    for number in range(1_000):
        line = Watched(f"r.{number}")
        line.say(b"ask", b"chain of the ask", 1, "user", ())
        line.say(None, b"chain of answer %d" % number, 2, "assistant", ())
        lines.register(line, 0)
    Watched.looks = 0
    place = lines.place([START, b"chain of the ask"], b"")
    assert place.line is not None
    assert (place.line.session_id, place.kept, place.reason) == ("r.0", 1, "earlier point")
    place = lines.place([START, b"chain of the ask", b"chain of answer 500", b"chain of the next ask"], b"")
    assert place.line is not None
    assert (place.line.session_id, place.kept, place.reason) == ("r.500", 2, "")
    assert Watched.looks < 10


def test_lines_of_long_ago_keep_no_texts_and_are_recognised_all_the_same() -> None:
    lines = Lines()
    digests = {}
    for number in range(_WHOLE_LINES + 10):
        line = Line(f"r.{number}")
        packed = b"ask %d" % number
        digests[packed] = message_digest(user(packed.decode()))
        chain = lines.chain_of([packed], lambda _: digests[packed])  # noqa: B023 - at once
        line.say(packed, chain[-1], 1, "user", ())
        lines.register(line, 0)
    assert sum(line.packed != [None] for line in lines.newest.values()) == _WHOLE_LINES
    for packed in (b"ask 0", b"ask 250"):
        place = lines.place(lines.chain_of([packed], lambda _: digests[packed]), b"")  # noqa: B023 - at once
        assert place.line is not None
        assert (place.line.session_id, place.reason) == (f"r.{int(packed[4:])}", "")


PACKED = st.lists(st.sampled_from([b"a", b"b"]), max_size=9)


@given(PACKED, PACKED, st.integers(0, 9))
def test_the_first_difference_of_two_histories_is_where_they_part(a: list[bytes], b: list[bytes], start: int) -> None:
    end = min(len(a), len(b))
    start = min(start, end)
    parted = next((place for place in range(start, end) if a[place] != b[place]), end)
    assert _first_difference(a, b, start, end) == parted
