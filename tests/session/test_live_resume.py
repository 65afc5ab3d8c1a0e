"""A session across processes: resuming, repairing, forking, rewinding, and two writers at once."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from anthropic import beta_async_tool

from session.errors import (
    AnswerKeptInForkError,
    InvalidMessageError,
    InvalidMetadataError,
    InvalidPlaceError,
    NoModelError,
    PlaceNotFoundError,
    RequestOpenError,
    SessionDeletedError,
    ThinkingBoundError,
)
from session.events import (
    BlockReceived,
    PromptChanged,
    RequestSent,
    SessionRepaired,
    ToolStarted,
)
from session.lint import IN_DOUBT
from session.live import create_session, fork_session, resume_session
from session.state import SessionState
from session.storage import (
    EventSessionStorage,
    FileSessionStorage,
    MemorySessionStorage,
    SqliteSessionStorage,
    WrongVersionError,
)
from session.testing import Delay, Reply, ScriptedApi, StreamError, calls, says, thinks
from tests.session.live_kit import MODEL, add, events_of, in_loop, in_memory, kinds, multiply, shown, talk, types_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from session.storage import SessionStorage

IMAGE: dict[str, Any] = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}


# --- resuming ---------------------------------------------------------------------------------------------------------


@in_loop
async def test_a_resumed_session_goes_on_with_its_own_model_system_and_parameters() -> None:
    api, storage = ScriptedApi(["One.", "Two."]), in_memory()
    async with api.async_client() as client:
        async with create_session(
            model=MODEL, system="Be brief.", max_tokens=99, tools=[add], session_storage=storage, client=client
        ) as chat:
            await talk(chat, "Hello")
        async with resume_session(chat.id, session_storage=storage, client=client) as again:
            assert again.state.messages == chat.state.messages
            await talk(again, "More")
    first, second = api.calls
    assert second.body.startswith(first.body.removesuffix(b"]}"))


@in_loop
async def test_resuming_never_calls_the_api_and_says_what_is_unanswered() -> None:
    api, storage = ScriptedApi(["One."]), in_memory()
    async with api.async_client() as client:
        async with create_session(model=MODEL, session_storage=storage, client=client) as chat:
            await chat.send("Hello")
        async with create_session(resume=chat.id, session_storage=storage, client=client) as again:
            assert again.pending is not None
            assert again.pending.kind == "message"
            assert api.calls == []
            assert shown(await talk(again)) == "One."


@in_loop
async def test_the_same_tools_from_another_process_change_nothing_and_others_are_an_event() -> None:
    storage = in_memory()
    async with create_session(model=MODEL, tools=[add], session_storage=storage) as chat:
        await chat.send("Hello")
    before = await types_of(storage, chat.id)
    definition = dict(reversed(add.to_dict().items()))  # another order of keys
    async with resume_session(chat.id, tools=[definition], session_storage=storage):
        assert await types_of(storage, chat.id) == before
    async with resume_session(chat.id, tools=[add, multiply], session_storage=storage):
        changed = (await events_of(storage, chat.id))[-1]
        assert isinstance(changed, PromptChanged)
        assert [tool["name"] for tool in json.loads(changed.tools or b"")] == ["add", "multiply"]


@in_loop
async def test_a_deleted_session_says_so() -> None:
    storage = in_memory()
    async with create_session(model=MODEL, session_storage=storage) as chat:
        await chat.send("Hello")
    await storage.delete(chat.id)
    for opening in (resume_session(chat.id, session_storage=storage), fork_session(chat.id, session_storage=storage)):
        with pytest.raises(SessionDeletedError):
            await opening


async def crashed(storage: EventSessionStorage, *more: Any) -> str:
    """A session whose process died after these events."""
    async with create_session(model=MODEL, tools=[add], session_storage=storage) as chat:
        await chat.send("Hello")
    calls_two = Reply(content=[calls("add", {"a": 1, "b": 2}, "toolu_1"), calls("add", {"a": 3, "b": 4}, "toolu_2")])
    async with (
        ScriptedApi([calls_two]).async_client() as client,
        resume_session(chat.id, session_storage=storage, client=client) as again,
    ):
        async for part in again.receive():
            if part.type == "message":
                break
    if more:
        await storage.append(chat.id, more)
    return chat.id


@in_loop
async def test_a_tool_in_doubt_is_flagged_and_not_run_again() -> None:
    storage = in_memory()
    session_id = await crashed(storage, ToolStarted("toolu_1", "add"))
    api = ScriptedApi(["I see."])
    async with (
        api.async_client() as client,
        resume_session(session_id, tools=[add], session_storage=storage, client=client) as chat,
    ):
        assert [run.tool_use_id for run in chat.state.in_doubt] == ["toolu_1"]
        assert chat.pending is not None
        assert chat.pending.tool_use_ids == ("toolu_1", "toolu_2")
        assert shown(await talk(chat)) == "I see."
        repaired = next(event for event in await events_of(storage, chat.id) if isinstance(event, SessionRepaired))
        assert [result.tool_use_id for result in repaired.results] == ["toolu_1", "toolu_2"]
        assert repaired.problems == ("unanswered_tool_use",)
        assert chat.state.in_doubt == ()
    doubtful, not_run = api.calls[0].json["messages"][-1]["content"]
    assert doubtful["is_error"]
    assert "may have run" in doubtful["content"]
    assert not_run["is_error"]
    assert "was not run" in not_run["content"]


@in_loop
async def test_repairs_stand_before_a_new_message_in_its_commit() -> None:
    storage = in_memory()
    session_id = await crashed(storage)
    api = ScriptedApi(["Right."])
    async with api.async_client() as client, resume_session(session_id, session_storage=storage, client=client) as chat:
        version = chat.state.version
        await chat.send("Never mind.")
        assert await types_of(storage, chat.id, after=version) == ["session_repaired", "message_appended"]
        await talk(chat)
    roles = [message["role"] for message in api.calls[0].json["messages"]]
    assert roles == ["user", "assistant", "user", "user"]


@in_loop
async def test_a_repaired_history_is_not_repaired_again() -> None:
    storage = in_memory()
    session_id = await crashed(storage, ToolStarted("toolu_1", "add"))
    api = ScriptedApi(["One.", "Two."])
    async with api.async_client() as client:
        for text in ("A", "B"):
            async with resume_session(session_id, session_storage=storage, client=client) as chat:
                await talk(chat, text)
    assert (await types_of(storage, session_id)).count("session_repaired") == 1
    assert api.calls[1].body.startswith(api.calls[0].body.removesuffix(b"]}"))


@in_loop
async def test_a_history_from_elsewhere_is_repaired_in_the_middle_too_and_the_same_way_each_time() -> None:
    storage = in_memory()
    broken: list[Any] = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": [calls("add", {"a": 1, "b": 1.10}, "toolu_1")]},
        {"role": "user", "content": "Where is it?"},
        {"role": "assistant", "content": [says("Sorry."), {"type": "text", "text": ""}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_gone", "content": "x"}]},
    ]
    await storage.save(SessionState.new("elsewhere", messages=broken))
    api = ScriptedApi(["One.", "Two."])
    async with api.async_client() as client:
        async with resume_session("elsewhere", model=MODEL, session_storage=storage, client=client) as chat:
            await talk(chat, "Well?")
        async with resume_session("elsewhere", session_storage=storage, client=client) as chat:
            await talk(chat, "And?")
    assert [call.status for call in api.calls] == [200, 200]
    assert api.calls[1].body.startswith(api.calls[0].body.removesuffix(b"]}"))
    assert (await storage.state_at("elsewhere", 6)).messages == broken


@pytest.mark.parametrize(
    ("content", "sent"),
    [
        ("", "The tool failed without saying why."),
        ([], "The tool failed without saying why."),
        (None, "The tool failed without saying why."),
        ([IMAGE], "The tool failed without saying why."),
        ([says("No."), IMAGE], [says("No.")]),
    ],
)
@in_loop
async def test_failed_results_that_the_api_would_refuse_are_sent_as_it_takes_them(content: Any, sent: Any) -> None:
    """Those of other programs in the view of the history; a new one is refused before it is stored."""
    failed = {"type": "tool_result", "tool_use_id": "toolu_1", "is_error": True, "content": content}
    call = calls("add", {}, "toolu_1")
    history: list[dict[str, Any]] = [{"role": "user", "content": "Go"}, {"role": "assistant", "content": [call]}]
    api, storage = ScriptedApi(["Well."]), in_memory()
    await storage.save(SessionState.new("sess_a", messages=[*history, {"role": "user", "content": [failed]}]))
    await storage.save(SessionState.new("sess_b", messages=history))
    async with api.async_client() as client:
        chat = await resume_session("sess_a", model=MODEL, session_storage=storage, client=client)
        assert shown(await talk(chat)) == "Well."
        assert api.calls[0].json["messages"][-1]["content"] == [{**failed, "content": sent}]
        other = await resume_session("sess_b", model=MODEL, session_storage=storage, client=client)
        with pytest.raises(InvalidMessageError, match="tool that failed"):
            await other.send([failed])


@in_loop
async def test_a_cut_response_left_by_a_crash_is_asked_again_after_take_over() -> None:
    storage = in_memory()
    async with create_session(model=MODEL, session_storage=storage) as chat:
        await chat.send("Hello")
    block = BlockReceived("call_dead", 0, b'{"type":"text","text":"Half"}')
    await storage.append(chat.id, [RequestSent("call_dead", 1, stream=True), block])
    api = ScriptedApi(["Whole."])
    async with api.async_client() as client:
        async with resume_session(chat.id, session_storage=storage, client=client) as again:
            assert again.pending is not None
            assert again.pending.kind == "request"
            for use in (lambda: talk(again), lambda: again.send("x")):
                with pytest.raises(RequestOpenError, match="take_over=True"):
                    await use()
            assert api.calls == []
        async with resume_session(chat.id, session_storage=storage, client=client, take_over=True) as again:
            assert shown(await talk(again)) == "Whole."
            assert len(again.state.messages) == 2
    assert "response_interrupted" in await types_of(storage, chat.id)


# --- thinking ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "named"),
    [({"system": "Be long."}, "system"), ({"tools": [add, multiply]}, "tools"), ({"tools": []}, "tools")],
    ids=["system", "more tools", "no tools"],
)
@in_loop
async def test_a_change_that_would_invalidate_thinking_is_refused_unless_it_is_stripped(
    change: dict[str, Any], named: str
) -> None:
    thought = Reply(content=[thinks("Hm."), says("One.")])
    api, storage = ScriptedApi([thought, thought, "Three.", "Four."]), in_memory()
    async with api.async_client() as client:
        async with create_session(
            model=MODEL, system="Be brief.", tools=[add], session_storage=storage, client=client
        ) as chat:
            await talk(chat, "Hello")
            await talk(chat, "More")
        before = await types_of(storage, chat.id)
        for opening in (resume_session, fork_session):
            with pytest.raises(ThinkingBoundError, match="strip_thinking=True") as caught:
                await opening(chat.id, session_storage=storage, client=client, **change)
            assert caught.value.changed == (named,)
        assert await types_of(storage, chat.id) == before
        async with resume_session(
            chat.id, session_storage=storage, client=client, strip_thinking=True, **change
        ) as again:
            assert shown(await talk(again, "On")) == "Three."
        async with resume_session(chat.id, session_storage=storage, client=client) as again:
            assert shown(await talk(again, "On")) == "Four."
            assert len((await storage.state_at(chat.id, "turn:2")).messages) == 4
    assert [call.status for call in api.calls] == [200] * 4
    assert b"Hm." not in api.calls[2].body
    assert b"Hm." in api.calls[1].body


@in_loop
async def test_what_thinking_is_not_bound_to_may_change() -> None:
    thought = Reply(content=[thinks("Hm."), says("One.")])
    api, storage = ScriptedApi([thought, "Two.", "Three."]), in_memory()
    async with api.async_client() as client:
        async with create_session(model=MODEL, system="Be brief.", session_storage=storage, client=client) as chat:
            await talk(chat, "Hello")
        marked = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
        for change in ({"max_tokens": 5, "model": "claude-opus-4-8"}, {"system": marked}):
            async with resume_session(chat.id, session_storage=storage, client=client, **change) as again:
                await talk(again, "On")
    assert [call.status for call in api.calls] == [200] * 3
    assert api.calls[1].json["model"] == "claude-opus-4-8"


@in_loop
async def test_without_thinking_anything_may_change() -> None:
    api, storage = ScriptedApi(["One.", "Two."]), in_memory()
    async with api.async_client() as client:
        async with create_session(model=MODEL, system="Be brief.", session_storage=storage, client=client) as chat:
            await talk(chat, "Hello")
        async with resume_session(chat.id, system="Be long.", session_storage=storage, client=client) as again:
            await talk(again, "On")
    assert api.calls[1].json["system"] == "Be long."


# --- forks and rewinds ------------------------------------------------------------------------------------------------


@in_loop
async def test_a_fork_shares_what_was_said_and_then_goes_its_own_way() -> None:
    api, storage = ScriptedApi(["One.", "Two.", "Fork.", "Three."]), in_memory()
    async with (
        api.async_client() as client,
        create_session(model=MODEL, session_storage=storage, client=client) as chat,
    ):
        await talk(chat, "A")
        await talk(chat, "B")
        async with fork_session(chat.id, at="turn:1", session_storage=storage, client=client) as other:
            assert other.state.parent_id == chat.id
            assert other.state.messages == chat.state.messages[:2]
            usage = other.state.usage
            assert usage == (await storage.state_at(chat.id, "turn:1")).usage == other.state.inherited_usage
            await talk(other, "C")
            assert other.state.usage == usage + other.state.own_usage
        await talk(chat, "D")
        assert [message["content"] for message in chat.state.messages if message["role"] == "user"] == ["A", "B", "D"]
    assert api.calls[2].body.startswith(api.calls[0].body.removesuffix(b"]}"))


@in_loop
async def test_an_open_session_forks_at_its_head_with_all_it_has() -> None:
    api, storage = ScriptedApi(["One.", Reply(content=[calls("add", {"a": 1, "b": 2})]), "Done."]), in_memory()
    async with (
        api.async_client() as client,
        create_session(model=MODEL, tools=[add], session_storage=storage, client=client) as chat,
    ):
        await talk(chat, "A")
        async with chat.fork(max_turns=1) as other:
            assert other.state.messages == chat.state.messages
            assert kinds(await talk(other, "B")) == ["tool_use", "message", "tool_result", "stop"]
        with pytest.raises(TypeError):
            chat.fork(nonsense=1)
        with pytest.raises(ValueError, match="storage of its session"):
            chat.fork(session_storage=storage)


@in_loop
async def test_a_fork_made_by_create_session_and_one_before_the_first_prompt() -> None:
    api, storage = ScriptedApi(["One.", "Two.", "Three."]), in_memory()
    async with api.async_client() as client:
        chat = await create_session(model=MODEL, system="S", session_storage=storage, client=client)
        await talk(chat, "A")
        for at in (0, 1, "turn:1"):
            async with create_session(fork=chat.id, at=at, session_storage=storage, client=client) as other:
                if at != "turn:1":
                    await talk(other, "A")
        assert api.calls[1].body == api.calls[2].body == api.calls[0].body
        with pytest.raises(PlaceNotFoundError):
            await fork_session(chat.id, at="turn:9", session_storage=storage)
        with pytest.raises(InvalidPlaceError):
            await fork_session(chat.id, at="yesterday", session_storage=storage)


@in_loop
async def test_a_rewind_sets_aside_what_came_later() -> None:
    api, storage = ScriptedApi([Reply(content=[thinks("Hm."), says("One.")]), "Two.", "Three."]), in_memory()
    async with (
        api.async_client() as client,
        create_session(model=MODEL, session_storage=storage, client=client) as chat,
    ):
        await talk(chat, "A")
        await talk(chat, "B")
        full = chat.state.version
        await chat.rewind("turn:1")
        assert chat.pending is None
        assert shown(await talk(chat, "C")) == "Three."
        assert [message["content"] for message in chat.state.messages if message["role"] == "user"] == ["A", "C"]
        await chat.rewind(full)
        assert [message["content"] for message in chat.state.messages if message["role"] == "user"] == ["A", "B"]
        with pytest.raises(PlaceNotFoundError):
            await chat.rewind("turn:99")
    assert api.calls[2].body.startswith(api.calls[0].body.removesuffix(b"]}"))


@in_loop
async def test_a_rewind_brings_thinking_back_only_behind_the_prompt_it_was_produced_behind() -> None:
    api, storage = ScriptedApi([Reply(content=[thinks("Hm."), says("One.")]), "Two.", "Three."]), in_memory()
    async with api.async_client() as client:
        options: dict[str, Any] = {"session_storage": storage, "client": client}
        async with create_session(model=MODEL, system="A", **options) as chat:
            await talk(chat, "Go")
        async with resume_session(chat.id, system="B", strip_thinking=True, **options) as again:
            await talk(again, "More")
            before = again.state
            with pytest.raises(ThinkingBoundError, match="Nothing was written"):
                await again.rewind("turn:1")
            assert again.state == before
            await again.rewind("turn:1", strip_thinking=True)
            assert again.state.messages == [
                {"role": "user", "content": "Go"},
                {"role": "assistant", "content": [says("One.")]},
            ]
            await talk(again, "Then")
    assert [call.error for call in api.calls] == [None] * 3


@pytest.mark.parametrize("kind", ["events", "states"])
@in_loop
async def test_a_fork_that_is_refused_leaves_no_session_and_no_hold_on_the_tools(kind: str) -> None:
    storage = in_memory() if kind == "events" else MemorySessionStorage()
    closed: list[str] = []

    class Tool:
        name = "tool"

        def to_dict(self) -> dict[str, Any]:
            return {"name": "tool", "input_schema": {"type": "object"}}

        def call(self, input: object) -> str:  # noqa: A002 - as the SDK has it
            return str(input)

        def close(self) -> None:
            closed.append(self.name)

    api = ScriptedApi([Reply(content=[thinks("Hm."), says("One.")])])
    async with api.async_client() as client:
        async with create_session(
            model=MODEL, system="A", tools=[Tool()], session_storage=storage, client=client
        ) as chat:
            await talk(chat, "Go")
            for refused in ({"system": "B"}, {"metadata": {"a": object()}}):
                with pytest.raises((ThinkingBoundError, InvalidMetadataError), match="othing was written"):
                    await chat.fork(**refused)
        assert closed == ["tool"]
        options: dict[str, Any] = {"session_storage": storage} | ({"model": MODEL} if kind == "states" else {})
        with pytest.raises(InvalidMetadataError):
            await fork_session(chat.id, metadata={"a": object()}, **options)
        if kind == "states":
            with pytest.raises(NoModelError, match="nothing was written"):
                await fork_session(chat.id, session_storage=storage)
        assert await storage.list() == [chat.id]


# --- two writers ------------------------------------------------------------------------------------------------------


@in_loop
async def test_the_loser_of_two_sends_fails_before_an_api_call_and_the_other_turn_stays() -> None:
    api, storage = ScriptedApi(["One."]), in_memory()
    async with api.async_client() as client:
        one = await create_session(model=MODEL, session_storage=storage, client=client)
        other = await resume_session(one.id, session_storage=storage, client=client)
        await one.send("Mine")
        with pytest.raises(WrongVersionError):
            await other.send("Theirs")
        await talk(one)
        with pytest.raises(WrongVersionError):
            await other.send("Theirs")
        again = await resume_session(one.id, session_storage=storage)
        assert [message["content"] for message in again.state.messages if message["role"] == "user"] == ["Mine"]
    assert len(api.calls) == 1


@in_loop
async def test_of_two_that_ask_at_once_one_pays() -> None:
    api, storage = ScriptedApi(["One."]), in_memory()
    async with api.async_client() as client:
        one = await create_session(model=MODEL, session_storage=storage, client=client)
        await one.send("Hello")
        other = await resume_session(one.id, session_storage=storage, client=client)
        await talk(one)
        with pytest.raises(WrongVersionError):
            await talk(other)
    assert len(api.calls) == 1


@in_loop
async def test_an_answer_that_another_writer_overtook_is_kept_in_a_fork() -> None:
    held = Reply(content=[thinks("Hm."), says("A paid answer.")], delay=Delay(hold_after_events=6))
    api, storage = ScriptedApi([held, "Theirs."]), in_memory()
    async with api.async_client() as client:
        one = await create_session(model=MODEL, session_storage=storage, client=client)
        await one.send("Hello")
        receiving = one.receive()
        await anext(receiving)
        other = await resume_session(one.id, session_storage=storage, client=client, take_over=True)
        await other.send("I go on")
        api.release()
        with pytest.raises(AnswerKeptInForkError, match="kept in its fork") as caught:
            async for _ in receiving:
                pass
        assert (caught.value.session_id, caught.value.fork_id) == (one.id, (await storage.list())[-1])
        await talk(other)
        assert other.state.messages[-1]["content"] == [says("Theirs.")]
        kept = await resume_session(caught.value.fork_id, session_storage=storage, client=client)
        assert kept.state.messages[-1]["content"][-1] == says("A paid answer.")
        assert kept.state.parent_id == one.id
        assert kept.state.own_usage.output_tokens > 0
        assert kept.pending is None
        with pytest.raises(WrongVersionError):
            await one.send("x")


@in_loop
async def test_a_result_that_another_writer_overtook_is_kept_in_a_fork() -> None:
    storage = in_memory()

    @beta_async_tool
    async def slow() -> str:
        """Somebody else goes on meanwhile."""
        other = await resume_session(chat.id, session_storage=storage)
        await other.send("I go on")
        return "precious"

    api = ScriptedApi([Reply(content=[calls("slow", {}, "toolu_1")])])
    async with api.async_client() as client:
        chat = await create_session(model=MODEL, tools=[slow], session_storage=storage, client=client)
        with pytest.raises(AnswerKeptInForkError) as caught:
            await talk(chat, "Go")
        state = await storage.load(caught.value.fork_id)
        assert state is not None
        assert state.messages[-1]["content"][0]["content"] == "precious"
    assert len(api.calls) == 1


@in_loop
async def test_a_title_set_meanwhile_disturbs_nothing() -> None:
    held = Reply(content=[says("One."), says("Two.")], delay=Delay(hold_after_events=6))
    api, storage = ScriptedApi([held]), in_memory()
    async with (
        api.async_client() as client,
        create_session(model=MODEL, session_storage=storage, client=client) as chat,
    ):
        await chat.send("Hello")
        async for part in chat.receive():
            if part.type == "text" and part.text == "One.":
                await storage.update_metadata(chat.id, title="A talk")
                api.release()
        assert chat.state.metadata == {"title": "A talk"}
        assert len(chat.state.messages) == 2
        assert chat.state == await storage.load(chat.id)


@in_loop
async def test_a_failure_that_another_writer_overtook_leaves_no_fork() -> None:
    held = Reply(content=[says("One."), says("Two.")], error=StreamError(), delay=Delay(hold_after_events=5))
    api, storage = ScriptedApi([held]), in_memory()
    async with api.async_client() as client:
        one = await create_session(model=MODEL, session_storage=storage, client=client)
        await one.send("Hello")
        receiving = one.receive()
        await anext(receiving)
        other = await resume_session(one.id, session_storage=storage, take_over=True)
        await other.send("I go on")
        await receiving.aclose()
        assert await storage.list() == [one.id]


# --- other storages ---------------------------------------------------------------------------------------------------


def plain_storage(kind: str, path: Path) -> SessionStorage:
    kinds_of_storage: dict[str, Callable[[], SessionStorage]] = {
        "memory": MemorySessionStorage,
        "file": lambda: FileSessionStorage(path),
        "sqlite": lambda: SqliteSessionStorage(path / "sessions.db"),
    }
    return kinds_of_storage[kind]()


@pytest.mark.parametrize("kind", ["memory", "file", "sqlite"])
@in_loop
async def test_sessions_work_over_the_plain_storages_with_fewer_promises(kind: str, tmp_path: Path) -> None:
    storage = plain_storage(kind, tmp_path)
    api = ScriptedApi([Reply(content=[calls("add", {"a": 1, "b": 2}, "toolu_1")]), "Three.", "Four.", "Five."])
    async with api.async_client() as client:
        async with create_session(model=MODEL, tools=[add], session_storage=storage, client=client) as chat:
            await chat.send("Go")
            stored = await storage.load(chat.id)
            assert stored is not None
            assert stored.messages == [{"role": "user", "content": "Go"}]
            async for part in chat.receive():
                stored = await storage.load(chat.id)
                assert stored is not None
                if part.type == "message":
                    assert stored.messages[-1] == part.message
                if part.type == "tool_result":
                    assert stored.messages[-1]["content"][0]["content"] == "3"
            assert stored.usage == chat.state.usage
        with pytest.raises(NoModelError, match="keeps none"):
            await resume_session(chat.id, session_storage=storage)
        async with resume_session(chat.id, model=MODEL, tools=[add], session_storage=storage, client=client) as again:
            await talk(again, "More")
            async with again.fork() as other:
                assert other.state.parent_id == chat.id
                await talk(other, "Other")
            with pytest.raises(PlaceNotFoundError, match="head only"):
                await again.fork(at="turn:1")
        assert sorted(await storage.list()) == sorted([chat.id, other.id])
    assert api.calls[2].body.startswith(api.calls[1].body.removesuffix(b"]}"))
    assert [call.status for call in api.calls] == [200] * 4


SLEEPY: list[str] = []


@beta_async_tool
async def sleepy() -> str:
    """Runs for ever."""
    SLEEPY.append("started")
    await asyncio.Event().wait()
    return "never"


@pytest.mark.parametrize("kind", ["memory", "file", "sqlite"])
@in_loop
async def test_without_recorded_starts_no_tool_is_said_not_to_have_run(kind: str, tmp_path: Path) -> None:
    storage = plain_storage(kind, tmp_path)
    api = ScriptedApi([Reply(content=[calls("sleepy", {}, "toolu_1")]), "I look first."])
    async with (
        api.async_client() as client,
        create_session(model=MODEL, tools=[sleepy], session_storage=storage, client=client) as dying,
    ):
        SLEEPY.clear()
        running = asyncio.ensure_future(talk(dying, "Go"))
        while not SLEEPY:  # noqa: ASYNC110 - until the tool runs
            await asyncio.sleep(0)
        chat = await resume_session(dying.id, model=MODEL, tools=[sleepy], session_storage=storage, client=client)
        assert [run.tool_use_id for run in chat.state.in_doubt] == ["toolu_1"]  # as another process sees it
        assert shown(await talk(chat)) == "I look first."
        assert chat.state.in_doubt == ()
        running.cancel()
        await asyncio.wait([running])
    (told,) = api.calls[1].json["messages"][-1]["content"]
    assert told["content"] == IN_DOUBT


@pytest.mark.parametrize("fork", [False, True])
@in_loop
async def test_a_call_in_a_history_that_was_not_live_is_in_doubt_wherever_it_stands(fork: bool) -> None:
    storage = in_memory()
    messages: list[Any] = [
        {"role": "user", "content": "Go"},
        {"role": "assistant", "content": [calls("add", {}, "toolu_1")]},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": [calls("add", {}, "toolu_2"), calls("add", {}, "toolu_3")]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_2", "content": "2"}]},
    ]
    await storage.save(SessionState.new("elsewhere", messages=messages))
    api = ScriptedApi(["One.", "Two."])
    async with api.async_client() as client:
        opening = fork_session if fork else resume_session
        async with opening("elsewhere", model=MODEL, session_storage=storage, client=client) as chat:
            assert [run.tool_use_id for run in chat.state.in_doubt] == ["toolu_1", "toolu_3"]
            await talk(chat)
            await talk(chat, "More")
    for call in api.calls:
        sent = [block for message in call.json["messages"] for block in message["content"] if "content" in block]
        results = {block["tool_use_id"]: block["content"] for block in sent if isinstance(block, dict)}
        assert results == {"toolu_1": IN_DOUBT, "toolu_2": "2", "toolu_3": IN_DOUBT}


@in_loop
async def test_a_save_that_fails_leaves_the_session_as_it_was() -> None:
    class Full(MemorySessionStorage):
        full = False

        async def save(self, state: SessionState, /) -> SessionState:
            if self.full:
                raise OSError("no space left")
            return await super().save(state)

    storage = Full()
    async with create_session(model=MODEL, session_storage=storage) as chat:
        storage.full = True
        with pytest.raises(OSError, match="no space"):
            await chat.send("Hello")
        assert chat.state.messages == []
        storage.full = False
        await chat.send("Hello")
        assert len(chat.state.messages) == 1


@in_loop
async def test_a_results_message_saved_in_part_is_completed_behind_it() -> None:
    storage = MemorySessionStorage()
    messages: list[Any] = [
        {"role": "user", "content": "Go"},
        {"role": "assistant", "content": [calls("add", {}, "toolu_1"), calls("add", {}, "toolu_2")]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "1"}]},
    ]
    await storage.save(SessionState.new("partly", messages=messages))
    api = ScriptedApi(["Done."])
    async with (
        api.async_client() as client,
        resume_session("partly", model=MODEL, session_storage=storage, client=client) as chat,
    ):
        assert shown(await talk(chat)) == "Done."
    assert [message["role"] for message in api.calls[0].json["messages"]] == ["user", "assistant", "user", "user"]


# --- imports ----------------------------------------------------------------------------------------------------------


def test_a_session_is_created_and_resumed_without_importing_the_sdk() -> None:
    program = (
        "import asyncio, sys\n"
        "from session import MemorySessionStorage, create_session, resume_session\n"
        "async def main():\n"
        "    storage = MemorySessionStorage()\n"
        "    async with create_session(model='m', session_storage=storage) as chat:\n"
        "        await chat.send('Hello')\n"
        "    await resume_session(chat.id, model='m', session_storage=storage)\n"
        "asyncio.run(main())\n"
        "assert 'anthropic' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
