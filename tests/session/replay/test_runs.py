"""What belongs to a run, and what of it a replay asks for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import anthropic
import pytest

from session.recording import Recorder, run_of
from session.replay import ReplayDivergedError, Replayer
from session.storage._now import run_now
from session.testing import Reply, ScriptedApi, calls
from tests.session.recording.kit import ASK, in_memory, state_of, user
from tests.session.replay.kit import ask, diverges, numbered, record, replay, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def converse(client: anthropic.Anthropic, *asks: str) -> list[str]:
    """The answers to *asks*, in one conversation."""
    talk: list[Any] = []
    for each in asks:
        answer = client.messages.create(messages=[*talk, user(each)], **ASK)
        talk += [user(each), {"role": "assistant", "content": answer.content}]
    return [message["content"][0].text for message in talk[1::2]]


# --- several runs of one name -----------------------------------------------------------------------------------------


def test_each_run_of_a_name_is_replayed_by_itself() -> None:
    storage, api = in_memory(), ScriptedApi(numbered)

    def program(client: anthropic.Anthropic) -> list[str]:
        return [*converse(client, "One", "Two"), ask(client, [user("A title")], system="You name things.")]

    runs = []
    for _ in range(2):
        recorder = Recorder(storage, session="nightly")
        runs.append((run(program, api.client, recorder), recorder.sessions))
    assert [sessions for _, sessions in runs] == [
        ["nightly", "nightly.2"],
        ["nightly", "nightly.3", "nightly.4"],
    ]
    for recorded, sessions in runs:
        assert replay(program, storage, sessions[-1]) == recorded
    assert replay(program, storage, "nightly") == runs[0][0]
    assert replay(program, storage, "nightly.3") == runs[1][0]


def test_runs_that_share_a_session_are_replayed_as_one() -> None:
    storage, api = in_memory(), ScriptedApi(numbered)

    def program(client: anthropic.Anthropic, numbers: range, talk: list[Any]) -> list[str]:
        seen = []
        for number in numbers:
            talk.append(user(f"Ask {number}"))
            answer = client.messages.create(messages=talk, **ASK)
            talk.append({"role": "assistant", "content": answer.content})
            seen += [answer.to_json(), ask(client, [user(f"Title {number}")], system="You name things.")]
        return seen

    talk: list[Any] = []
    recorded = []
    for part in (range(2), range(2, 4)):
        with api.client(middleware=[Recorder(storage, session="s")]) as client:
            recorded += program(client, part, talk)
    assert replay(lambda client: program(client, range(4), []), storage, "s") == recorded


@pytest.mark.parametrize("new", ["New", None])
def test_a_live_run_that_begins_with_a_new_conversation_has_what_was_replayed_before_it(new: str | None) -> None:
    storage = in_memory()

    def program(client: anthropic.Anthropic, *, changed: bool) -> list[list[str]]:
        seen = [converse(client, "First", "More")]
        if changed and new:
            seen.append(converse(client, new))
        return [*seen, converse(client, "Second, changed" if changed and not new else "Second", "More")]

    run(lambda client: program(client, changed=False), ScriptedApi(numbered).client, Recorder(storage, session="r"))
    api = ScriptedApi(lambda _body, number: f"live {number}")
    with Replayer(storage, "r", on_divergence="live") as replayer:
        seen = run(lambda client: program(client, changed=True), api.client, replayer)
    assert replayer.live is not None
    for each in replayer.live.sessions:
        assert replay(lambda client: program(client, changed=True), storage, each) == seen


# --- message threads --------------------------------------------------------------------------------------------------


def test_a_thread_keeps_its_system_where_a_helper_was_shown_the_same_conversation() -> None:
    def program(client: anthropic.Anthropic) -> list[str]:
        def create(text: str, thread: Any, **options: Any) -> Any:
            body = {"thread": thread}
            return client.beta.messages.create(messages=[user(text)], extra_body=body, **ASK, **options)

        first = create("One", {"type": "create"}, system="MAIN")
        shown = [user("One"), {"role": "assistant", "content": first.content}, user("Two")]
        guarded = ask(client, shown, system="GUARD")
        second = create("Two", {"type": "continue", "previous_message_id": first.id})
        third = create("Three", {"type": "continue", "previous_message_id": second.id})
        return [guarded, *(answer.to_json() for answer in (first, second, third))]

    storage, root, recorded = record(program, numbered)
    assert replay(program, storage, root) == recorded
    ends = [state_of(storage, each) for each in run_of(run_now(storage.list()), root)]
    (longest,) = [state for state in ends if len(state.messages) == 6]
    assert longest.prompt.system == b'"MAIN"'


# --- calls at the same time -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 7])
def test_equal_calls_of_one_loop_get_their_own_answers(count: int, tmp_path: Path) -> None:
    async def samples(client: anthropic.AsyncAnthropic) -> list[str]:
        asked = [client.messages.create(messages=[user("Write a haiku")], **ASK) for _ in range(count)]
        drafts = [answer.content[0].text for answer in await asyncio.gather(*asked)]
        again = [client.messages.create(messages=[user("Write a haiku")], **ASK) for _ in range(count)]
        drafts += [answer.content[0].text for answer in await asyncio.gather(*again)]  # they bring nothing new
        better = [
            client.messages.create(messages=[user(f"Better: {draft} ({place})")], **ASK)
            for place, draft in enumerate(drafts)
        ]
        return [*drafts, *(answer.to_json() for answer in await asyncio.gather(*better))]

    for number in range(5):
        path, api = tmp_path / str(number), ScriptedApi(numbered)
        with Recorder(path, session="r") as recorder:
            recorded = run(samples, api.async_client, recorder)
        with Replayer(path, "r") as replayer:
            assert run(samples, anthropic.AsyncAnthropic, replayer, api_key="none") == recorded


def test_a_call_in_a_task_of_its_own_has_no_line_of_the_program() -> None:
    def program(text: str) -> Callable[[anthropic.AsyncAnthropic], Any]:
        async def main(client: anthropic.AsyncAnthropic) -> None:
            await asyncio.gather(client.messages.create(messages=[user(text)], **ASK))

        return main

    async def directly(client: anthropic.AsyncAnthropic) -> None:
        await client.messages.create(messages=[user("Other")], **ASK)

    storage, root, _ = record(program("This"), ["Yes."])
    assert diverges(program("That"), storage, root).frame == ""
    assert "in directly" in diverges(directly, storage, root).frame


# --- tools that make calls --------------------------------------------------------------------------------------------


TOOLS: Any = [{"name": "research", "input_schema": {"type": "object"}}]


def researching(client: anthropic.Anthropic, wrap: Callable[[Any], Any] = lambda tool: tool) -> list[str]:
    """Two calls of a tool that is a helper with conversations of its own: what it said, and the answer."""

    def research(topic: str) -> str:
        found = converse(client, topic, "More")
        return ask(client, [user(f"Sum up: {found}")], system="You sum up.")

    tool = wrap(research)
    talk: list[Any] = [user("Go")]
    answer = client.messages.create(messages=talk, tools=TOOLS, **ASK)
    said = [tool(topic) for topic in ("cats", "dogs")]
    uses = [block.id for block in answer.content if block.type == "tool_use"]
    results = [
        {"type": "tool_result", "tool_use_id": use, "content": each} for use, each in zip(uses, said, strict=True)
    ]
    talk += [{"role": "assistant", "content": answer.content}, {"role": "user", "content": results}]
    return [*said, ask(client, talk, tools=TOOLS)]


def helped(body: dict[str, Any], number: int) -> Any:
    if body.get("tools") and "tool_result" not in str(body["messages"]):
        return Reply(content=[calls("research", {"topic": "cats"}), calls("research", {"topic": "dogs"})])
    return f"answer {number}"


def test_a_tool_that_does_not_run_need_not_make_its_calls(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "session.replay")
    storage, root, recorded = record(researching, helped)
    assert replay(researching, storage, root) == recorded, "it runs, and its calls are served"
    with Replayer(storage, root) as replayer:
        served = run(lambda client: researching(client, replayer.tool), anthropic.Anthropic, replayer, api_key="none")
    assert served == recorded
    assert caplog.text.count("was not made: the tools") == 6


def test_calls_of_tools_of_which_one_ran_must_be_made() -> None:
    storage, root, recorded = record(researching, helped)

    def half(research: Any) -> Any:
        wrapped = replayer.tool(research)
        return lambda topic: wrapped(topic) if topic == "cats" else recorded[1]  # it says so, and asks nobody

    with pytest.raises(ReplayDivergedError, match="missing call"), Replayer(storage, root) as replayer:
        run(lambda client: researching(client, half), anthropic.Anthropic, replayer, api_key="none")
