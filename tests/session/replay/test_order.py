"""What was recorded first is served first, and told apart from what came later: by the log's order, not by a clock."""

from __future__ import annotations

import asyncio
import itertools
import sys
from typing import TYPE_CHECKING, Any

import pytest
from anthropic import Anthropic

from eventstore import MemoryEventLog
from session.events import RequestSent
from session.recording import Recorder
from session.replay import Replayer
from session.replay._lanes import Exchange, Lane
from session.replay._run import read_lanes
from session.replay._script import Script, Taken
from session.storage import EventSessionStorage
from session.storage._now import run_now
from session.testing import ScriptedApi
from tests.session.recording.kit import ASK, in_memory, user
from tests.session.replay.kit import ask, diverges, numbered, record, replay, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from anthropic import AsyncAnthropic

MILLISECOND = 10**6


def history(client: Anthropic) -> list[Any]:
    first = client.messages.create(messages=[user("Begin")], **ASK)
    return [user("Begin"), {"role": "assistant", "content": first.content}, user("Try")]


def best_of_three(client: Anthropic) -> list[str]:
    tries = history(client)
    return [ask(client, tries) for _ in range(3)]


async def best_of_three_async(client: AsyncAnthropic) -> list[str]:
    """Each call in a task of its own."""

    async def one(messages: list[Any]) -> Any:
        return await asyncio.ensure_future(client.messages.create(messages=messages, **ASK))

    first = await one([user("Begin")])
    tries = [user("Begin"), {"role": "assistant", "content": first.content}, user("Try")]
    return [(await one(tries)).to_json() for _ in range(3)]


@pytest.mark.parametrize("program", [best_of_three, best_of_three_async])
def test_answers_to_one_request_that_was_made_again_come_in_the_order_in_which_they_came(program: Any) -> None:
    storage, root, recorded = record(program, numbered)
    assert len(set(recorded)) == 3
    assert replay(program, storage, root) == recorded


# --- clocks, and logs that were imported ------------------------------------------------------------------------------


def recorded_with_clock(program: Any, ticks: Iterable[int]) -> tuple[EventSessionStorage, Any]:
    """A recording of which the events happen at these times (milliseconds), and what it came to."""
    times = iter(ticks)
    storage = EventSessionStorage(MemoryEventLog(clock=lambda: next(times) * MILLISECOND))
    return storage, run(program, ScriptedApi(numbered).client, Recorder(storage, session="r"))


def imported(storage: EventSessionStorage, session_ids: Iterable[str]) -> EventSessionStorage:
    """Another store with these sessions, one behind the other."""
    other = in_memory()
    for session_id in session_ids:
        head = run_now(storage.log.head(session_id))
        assert head is not None
        shared = run_now(storage.log.read(session_id, upto=head.forked_at)) if head.forked else []
        own = run_now(storage.log.read(session_id, after=head.forked_at))
        run_now(other.log.restore(session_id, [*shared, *([head.forked] if head.forked else []), *own]))
    return other


def three_agents(client: Anthropic, order: str = "abc") -> list[str]:
    return [ask(client, [user(name)], system=name) for name in order]


def main_and_helpers(client: Anthropic, order: str = "mhmhm") -> list[str]:
    """A conversation, between whose turns others are held."""
    talk: list[Any] = []
    seen = []
    for number, who in enumerate(order):
        messages = talk if who == "m" else []
        messages.append(user(f"{who} {order[:number].count(who)}"))
        answer = client.messages.create(messages=messages, **ASK)
        messages.append({"role": "assistant", "content": answer.content})
        seen.append(answer.to_json())
    return sorted(seen)


def clock_set_back(after: int) -> Iterable[int]:
    return itertools.chain(range(1_000_000, 1_000_000 + after), itertools.count(900_000))


@pytest.mark.parametrize("after", range(1, 9))
def test_a_clock_that_was_set_back_changes_nothing(after: int) -> None:
    storage, recorded = recorded_with_clock(three_agents, clock_set_back(after))
    assert replay(three_agents, storage, "r") == recorded
    lanes = run_now(read_lanes(storage, "r"))
    assert [place.session_id for place in Script(lanes).not_made()] == ["r", "r.2", "r.3"]


@pytest.mark.parametrize("events", range(5, 13))
def test_what_was_over_at_a_place_is_told_by_the_log_too(events: int) -> None:
    talk: list[Any] = []

    def turn(client: Anthropic) -> list[str]:
        talk.append(user("Go on"))
        answer = client.messages.create(messages=talk, **ASK)
        talk.append({"role": "assistant", "content": answer.content})
        return [str(answer.to_json()), ask(client, [user(f"A title for {len(talk)}")])]

    storage, (_, recorded) = recorded_with_clock(lambda client: (turn(client), turn(client)), clock_set_back(events))
    del talk[2:]
    with Replayer(storage, "r", after="turn:1") as replayer:
        assert run(turn, Anthropic, replayer, api_key="none") == recorded


def test_another_order_is_found_out_where_places_and_times_agree() -> None:
    storage, _ = recorded_with_clock(three_agents, clock_set_back(2))
    assert diverges(lambda client: three_agents(client, "acb"), storage, "r").cause == "order"


@pytest.mark.parametrize("order", [["r", "r.2", "r.3"], ["r.3", "r.2", "r"]])
def test_a_run_that_was_imported_session_by_session_is_still_in_its_order(order: list[str]) -> None:
    storage, recorded = recorded_with_clock(main_and_helpers, itertools.count(1_000_000))
    other = imported(storage, order)
    assert replay(main_and_helpers, other, "r") == recorded
    assert [each.session_id for each in Script(run_now(read_lanes(other, "r"))).not_made()] == [
        *("r", "r.2", "r", "r.3", "r")
    ]
    assert diverges(lambda client: main_and_helpers(client, "mmhhm"), other, "r").cause == "order"


def test_answers_come_in_their_order_in_a_run_of_many_sessions_that_was_imported_by_name() -> None:
    def best_of_twelve(client: Anthropic) -> list[str]:
        return [ask(client, [user("Try")]) for _ in range(12)]

    storage, recorded = recorded_with_clock(best_of_twelve, itertools.count(1_000_000))
    other = imported(storage, sorted(run_now(storage.list())))
    assert replay(best_of_twelve, other, "r") == recorded


# --- the work of a call -----------------------------------------------------------------------------------------------


def script_of(lanes: int, digest_of: Callable[[int], bytes]) -> Script:
    """One call in each lane."""
    return Script(
        [
            Lane(
                f"s{number}",
                exchanges=[
                    Exchange(
                        session_id=f"s{number}",
                        number=0,
                        after=0,
                        version=2,
                        request=RequestSent(f"call_{number}", 1),
                        digest=digest_of(number),
                        model="m",
                        sent_at=10 * number,
                        sent_place=(10 * number).to_bytes(8, "big"),
                        ended=3,
                        ended_at=10 * number + 5,
                        ended_place=(10 * number + 5).to_bytes(8, "big"),
                    )
                ],
            )
            for number in range(lanes)
        ]
    )


def steps_of(script: Script, digest: bytes) -> int:
    """How many functions run to find one call."""
    count = 0

    def profile(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    sys.setprofile(profile)
    try:
        found = script.take(digest, key="", attempt=1, strand=0)
    finally:
        sys.setprofile(None)
    assert isinstance(found, Taken)
    assert found.overtaken_by is None
    return count


@pytest.mark.parametrize("digest_of", [lambda _number: b"same", str], ids=["same", "different"])
def test_a_call_is_found_with_the_same_work_in_any_number_of_lanes(digest_of: Any) -> None:
    few, many = (
        max(steps_of(script, digest_of(number)) for number in range(10))
        for script in (script_of(10, digest_of), script_of(1_000, digest_of))
    )
    assert many <= few + 10
