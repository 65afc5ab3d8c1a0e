"""What a page tells is what the fold of the session says, although no fold of it ever holds the bytes."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given, settings

from session.errors import PlaceNotFoundError, SessionNotFoundError
from session.events import BlockReceived, MessageAppended, RequestSent, ResponseReceived, ToolReturned
from session.pages._facts import dollars, used, when
from session.pages._parts import Call, Part, Result, Text, parts_of_message
from session.pages._story import Heading, Note, Said, TurnBegan, story
from session.storage.blocking import BlockingEventSessionStorage
from session.usage import Usage
from tests.session.histories import histories

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from session.events import AnyEvent

BEGIN = MessageAppended.of({"role": "user", "content": "begin"})


def apart(parts: Iterable[Part]) -> Counter[Part]:
    """*parts*, results taken out of their calls again."""
    found: Counter[Part] = Counter()
    for part in parts:
        if isinstance(part, Call) and part.result:
            found[part.result] += 1
            found[msgspec.structs.replace(part, result=None)] += 1
        else:
            found[part] += 1
    return found


@settings(max_examples=40)
@given(events=histories, more=histories)
def test_a_story_has_the_messages_and_turns_of_the_state(
    events: list[AnyEvent], more: list[AnyEvent], tmp_path_factory: pytest.TempPathFactory
) -> None:
    with BlockingEventSessionStorage(tmp_path_factory.mktemp("any") / "store", durability="os") as storage:
        storage.append("a", [BEGIN, *events], expected=0)
        storage.fork("a", "b", at=len(events))
        storage.append("b", [*more, BEGIN])
        for session_id in ("a", "b"):
            state = storage.load(session_id)
            assert state is not None
            heading, *items = story(storage, session_id)
            assert isinstance(heading, Heading)
            assert (heading.version, heading.digest) == _place(storage, session_id)
            said = [item for item in items if isinstance(item, Said)]
            assert apart(part for one in said for part in one.parts) == apart(
                part for raw in state.messages.raw for part in parts_of_message(raw)
            )
            turns = [turn for turn in state.turns if turn.message_index >= state.compacted]
            assert [item.number for item in items if isinstance(item, TurnBegan)] == [turn.number for turn in turns]
            assert all(one.version or not one.parts for one in said)
            assert all(one.version <= state.version for one in said)
            assert heading.usage == state.usage


def _place(storage: BlockingEventSessionStorage, session_id: str) -> tuple[int, bytes]:
    verified = storage.verify(session_id)
    return verified.version, verified.digest


def test_a_message_in_blocks_is_told_at_the_version_of_its_end(tmp_path: Path) -> None:
    events: list[AnyEvent] = [
        BEGIN,
        RequestSent("r", 1),
        BlockReceived("r", 0, b'{"type":"text","text":"let me"}'),
        BlockReceived("r", 1, b'{"type":"tool_use","id":"t","name":"f","input":{"a":1.10,"b":"x\\ny"}}', "t"),
        ResponseReceived("r", "msg_1", "claude-x", "tool_use", blocks=2),
        ToolReturned("t", b'{"type":"tool_result","tool_use_id":"t","content":"done"}'),
    ]
    with BlockingEventSessionStorage(tmp_path / "store", durability="os") as storage:
        storage.append("a", events, expected=0)
        said = [item for item in story(storage, "a") if isinstance(item, Said)]
    assert [(one.version, one.model) for one in said] == [(1, ""), (5, "claude-x")]
    result = Result("t", (Text("done"),))
    assert said[1].parts == (Text("let me"), Call("t", "f", (("a", "1.10"), ("b", "x\ny")), result))


def test_what_is_open_is_told(tmp_path: Path) -> None:
    with BlockingEventSessionStorage(tmp_path / "store", durability="os") as storage:
        storage.append(
            "a", [BEGIN, RequestSent("r", 1), BlockReceived("r", 0, b'{"type":"text","text":"half"}')], expected=0
        )
        notes = [item.text for item in story(storage, "a") if isinstance(item, Note)]
    assert notes == ["A response is not complete; 1 finished blocks of it are in the record, not here."]


def test_a_place_that_there_is_not_is_an_error_before_the_first_item(tmp_path: Path) -> None:
    with BlockingEventSessionStorage(tmp_path / "store", durability="os") as storage:
        storage.append("a", [BEGIN], expected=0)
        with pytest.raises(PlaceNotFoundError):
            next(story(storage, "a", at=2))
        with pytest.raises(SessionNotFoundError):
            next(story(storage, "b"))
        assert isinstance(next(story(storage, "a", at=0)), Heading)


@pytest.mark.parametrize(
    ("picodollars", "shown"),
    [(0, "$0.0000"), (10**12, "$1.0000"), (1_234 * 10**12 + 5 * 10**10, "$1,234.0500"), (123_456, "$0.000000123456"),
     (25 * 10**9, "$0.0250"), (-(10**12), "-$1.0000"), (10**9, "$0.0010"), (12_345_678_000, "$0.012345678")],
)  # fmt: skip
def test_money_is_told_exactly_where_it_is_little(picodollars: int, shown: str) -> None:
    assert dollars(picodollars) == shown


def test_facts_are_told_of_any_number() -> None:
    assert used(Usage()) == ""
    assert used(Usage(unpriced=2)) == "2 responses without a known price"
    assert when(10**30) == f"{10**30} ms"
    assert when(0) == "1970-01-01 00:00:00 UTC"
