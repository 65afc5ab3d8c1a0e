"""Programs on the anthropic SDK, recorded: what they said is a session, as if it had been a live one."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from anthropic import beta_async_tool, beta_tool

import session
from session import jsontext
from session.events import (
    MessageAppended,
    RequestSent,
    ResponseInterrupted,
    ResponseReceived,
    SessionCreated,
    SessionForked,
    ToolReturned,
    UsageRecorded,
)
from session.live import create_session
from session.recording import Recorder, run_of
from session.recording.digests import chain, parameters_digest, prompt_digest, request_digest
from session.storage import BlockingEventSessionStorage, EventSessionStorage
from session.testing import Delay, Failure, Reply, ScriptedApi, calls, says, thinks
from tests.session.recording.kit import (
    ASK,
    MODEL,
    body_of,
    digests,
    events_of,
    in_memory,
    sent_to,
    state_of,
    stored_of,
    types_of,
    user,
)

if TYPE_CHECKING:
    from pathlib import Path

    from anthropic import Anthropic

FACTS = ("messages", "usage", "prompt", "responses", "tools", "stop_reason", "results_open", "status", "pending")


@beta_tool
def add(a: int, b: int) -> str:
    """Add two numbers."""
    return str(a + b)


@beta_async_tool
async def multiply(a: int, b: int) -> str:
    """Multiply two numbers."""
    return str(a * b)


def converse(client: Anthropic, *asks: str, **options: Any) -> Any:
    """A program with a history of its own, which asks one thing after the other, streamed and not."""
    history: list[Any] = []
    for number, ask in enumerate(asks):
        history.append(user(ask))
        if number % 2:
            with client.messages.stream(messages=history, **{**ASK, **options}) as stream:
                answer: Any = stream.get_final_message()
        else:
            answer = client.messages.create(messages=history, **{**ASK, **options})
        history.append({"role": "assistant", "content": answer.content})
    return history


def test_a_synchronous_program_is_one_session_with_its_exact_messages() -> None:
    storage = in_memory()
    api = ScriptedApi(["One.", Reply(content=[thinks("Two?"), says("Two.")]), "Three."])
    recorder = Recorder(storage)
    converse(api.client(middleware=[recorder]), "Ask 1", "Ask 2", "Ask 3", system="Be brief.")
    (session_id,) = recorder.sessions
    state = state_of(storage, session_id)
    assert digests(state.messages) == digests([*sent_to(api.calls[-1]), {"role": "assistant", "content": "Three."}])
    assert state.messages.raw[0] == b'{"role":"user","content":"Ask 1"}'
    assert (state.prompt.model, state.prompt.system) == (MODEL, b'"Be brief."')
    assert (state.status, len(state.turns), state.unknown_events) == ("idle", 3, 0)
    assert types_of(storage, session_id) == [
        "session_created", "prompt_changed", "message_appended", "request_sent", "usage_recorded", "response_received",
        "message_appended", "request_sent", "block_received", "block_received", "usage_recorded", "response_received",
        "message_appended", "request_sent", "usage_recorded", "response_received",
    ]  # fmt: skip
    created = events_of(storage, session_id)[0]
    assert created == SessionCreated(session_id, origin="recorder")


def test_every_message_is_stored_once() -> None:
    storage = in_memory()
    words = [f"<word {number}>" for number in range(6)]
    api = ScriptedApi([f"answer {word}" for word in words])
    recorder = Recorder(storage)
    converse(api.client(middleware=[recorder]), *words)
    stored = msgspec.msgpack.encode(events_of(storage, recorder.sessions[0]), enc_hook=str)
    for word in words:
        assert stored.count(word.encode()) == 2, "once in the ask, once in the answer"


def _async_program(recorder: Recorder, api: ScriptedApi) -> None:
    async def main() -> None:
        async with api.async_client(middleware=[recorder]) as client:
            runner = client.beta.messages.tool_runner(messages=[user("What is 2 + 3?")], tools=[multiply], **ASK)
            async for _ in runner:
                pass

    asyncio.run(main())


def _sync_program(recorder: Recorder, api: ScriptedApi) -> None:
    with api.client(middleware=[recorder]) as client:
        for _ in client.beta.messages.tool_runner(messages=[user("What is 2 + 3?")], tools=[add], **ASK):
            pass


def _streaming_program(recorder: Recorder, api: ScriptedApi) -> None:
    with api.client(middleware=[recorder]) as client:
        runner = client.beta.messages.tool_runner(messages=[user("2 + 3?")], tools=[add], stream=True, **ASK)
        for stream in runner:
            for _ in stream:
                pass


@pytest.mark.parametrize("program", [_sync_program, _async_program, _streaming_program])
def test_a_tool_runner_on_threads_is_recorded_as_whole_requests(program: Any) -> None:
    storage = in_memory()
    name = "multiply" if program is _async_program else "add"
    api = ScriptedApi([*[Reply(content=[says("So:"), calls(name, {"a": 2, "b": 3})])] * 3, "Six."])
    recorder = Recorder(storage)
    program(recorder, api)
    assert [call.json["thread"]["type"] for call in api.calls] == ["create", *["continue"] * 3], "threads are on"
    (session_id,) = recorder.sessions
    state = state_of(storage, session_id)
    assert len(state.messages) == 8
    assert len(sent_to(api.calls[-1])) == 1, "the wire had the newest message only"
    whole = [message for call in api.calls for message in sent_to(call)]
    assert digests(state.messages[::2]) == digests(whole)
    assert len([event for event in events_of(storage, session_id) if isinstance(event, ToolReturned)]) == 3
    requests = [event for event in events_of(storage, session_id) if isinstance(event, RequestSent)]
    assert [request.messages for request in requests] == [1, 3, 5, 7]
    assert jsontext.parse(requests[1].parameters)["thread"] == api.calls[1].json["thread"]
    assert requests[0].path == "/v1/messages"
    assert "message-threads" in jsontext.parse(requests[0].headers)["anthropic-beta"]
    assert state.prompt.tools
    assert state.status == "idle"


@pytest.mark.parametrize("threads", [True, False])
def test_an_attempt_that_is_made_again_goes_on_where_the_first_one_was(threads: bool) -> None:
    storage = in_memory()
    fails = [Failure(status=529, headers={"retry-after-ms": "1"})] * 2
    api = ScriptedApi([*fails, Reply(content=[calls("add", {"a": 2, "b": 3})]), *fails, "Five."])
    recorder = Recorder(storage)
    client = api.client(middleware=[recorder], max_retries=3)
    if threads:
        client.beta.messages.tool_runner(messages=[user("2 + 3?")], tools=[add], **ASK).until_done()
    else:
        talk: list[Any] = [user("2 + 3?")]
        answer = client.messages.create(messages=talk, tools=[add.to_dict()], **ASK)
        result = {"type": "tool_result", "tool_use_id": answer.content[0].id, "content": "5"}
        talk += [{"role": "assistant", "content": answer.content}, {"role": "user", "content": [result]}]
        client.messages.create(messages=talk, tools=[add.to_dict()], **ASK)
    (session_id,) = recorder.sessions
    requests = [event for event in events_of(storage, session_id) if isinstance(event, RequestSent)]
    assert [(request.messages, request.attempt) for request in requests] == [
        (1, 1), (1, 2), (1, 3), (3, 1), (3, 2), (3, 3),
    ]  # fmt: skip
    assert len({request.request_id for request in requests}) == 2
    assert len([event for event in events_of(storage, session_id) if isinstance(event, ToolReturned)]) == 1
    assert len(state_of(storage, session_id).messages) == 4


def test_of_a_thread_that_began_before_the_recording_it_says_so(caplog: pytest.LogCaptureFixture) -> None:
    storage = in_memory()
    recorder = Recorder(storage)
    api = ScriptedApi(["Before.", "One.", "Two."])
    create = api.client().beta.messages.create
    before = create(messages=[user("Begin")], extra_body={"thread": {"type": "create"}}, **ASK).id
    create = api.client(middleware=[recorder]).beta.messages.create
    for text in ("Go on", "And on"):
        thread = {"type": "continue", "previous_message_id": before}
        before = create(messages=[user(text)], extra_body={"thread": thread}, **ASK).id
    assert [record.getMessage()[:24] for record in caplog.records] == ["a message thread goes on"]
    (session_id,) = recorder.sessions
    assert len(state_of(storage, session_id).messages) == 4


def _tool_program(client: Anthropic, tools: bytes, results: dict[str, Any]) -> None:
    history: list[Any] = []
    for ask in ("What is 2 + 3?", "Thanks"):
        history.append(user(ask))
        while history[-1]["role"] == "user":
            with client.messages.stream(messages=history, tools=jsontext.parse(tools), **ASK) as stream:
                answer = stream.get_final_message()
            history.append({"role": "assistant", "content": answer.content})
            if answer.stop_reason == "tool_use":
                history.append(results)


def test_a_recording_folds_to_the_state_of_a_live_session(tmp_path: Path) -> None:
    script: list[Any] = [
        Failure(status=529),
        Reply(
            content=[thinks("Add.", "c2ln"), says("Let me see."), calls("add", {"a": 2, "b": 3}, "toolu_1")], id="msg_1"
        ),
        Reply(content="5.", id="msg_2"),
        Reply(content="Welcome.", id="msg_3"),
    ]

    async def live(storage: EventSessionStorage) -> str:
        client = ScriptedApi(script, min_cache_tokens=10**9, check_thinking=False).async_client(max_retries=1)
        options: dict[str, Any] = {
            "model": MODEL,
            "max_tokens": 200,
            "parameters": {"cache_control": None},
            "tools": [add],
        }
        async with client, create_session(session_storage=storage, client=client, **options) as chat:
            for ask in ("What is 2 + 3?", "Thanks"):
                await chat.send(ask)
                async for _ in chat.receive():
                    pass
        return chat.id

    async def main() -> None:
        async with EventSessionStorage(tmp_path / "log") as storage:
            first = await storage.load(await live(storage))
            recorder = Recorder(storage)
            assert first is not None
            client = ScriptedApi(script, min_cache_tokens=10**9, check_thinking=False).client(
                middleware=[recorder], max_retries=1
            )
            await asyncio.to_thread(_tool_program, client, first.prompt.tools, first.messages[2])
            (session_id,) = recorder.sessions
            second = await storage.load(session_id)
            assert second is not None
            for fact in FACTS:
                assert getattr(second, fact) == getattr(first.replace(closed=False), fact), fact
            assert second.messages.raw == first.messages.raw
            assert [turn.number for turn in second.turns] == [turn.number for turn in first.turns]
            assert [mark.message_id for mark in second.landmarks] == ["msg_1", "msg_2", "msg_3"]

    asyncio.run(main())


# --- which session ----------------------------------------------------------------------------------------------------


def test_calls_at_the_same_time_from_one_head_become_a_session_and_forks_of_it() -> None:
    storage = in_memory()
    together = threading.Barrier(3, timeout=20)

    def script(_body: dict[str, Any], number: int) -> str:
        if number > 1:
            together.wait()
        return f"answer {number}"

    recorder = Recorder(storage)
    client = ScriptedApi(script).client(middleware=[recorder])
    first = client.messages.create(messages=[user("Begin")], **ASK)
    history = [user("Begin"), {"role": "assistant", "content": first.content}]

    def go_on(name: str) -> None:
        client.messages.create(messages=[*history, user(name)], **ASK)

    threads = [threading.Thread(target=go_on, args=(name,)) for name in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    root, *forks = recorder.sessions
    assert len(forks) == 2
    states = [state_of(storage, each) for each in recorder.sessions]
    assert sorted(state.messages[2]["content"] for state in states) == ["a", "b", "c"]
    assert all(len(state.messages) == 4 and state.status == "idle" for state in states)
    for fork, state in zip(forks, states[1:], strict=True):
        assert state.parent_id == root
        assert state_of(storage, root, state.forked_at).messages.raw == states[0].messages.raw[:2]
        forked = stored_of(storage, fork, after=state.forked_at)[0].event
        assert isinstance(forked, SessionForked)
        assert forked.reason == "parallel call"


def test_the_same_first_call_made_many_times_at_once_shares_what_it_asks(tmp_path: Path) -> None:
    with BlockingEventSessionStorage(tmp_path / "log") as storage:
        together = threading.Barrier(4, timeout=20)

        def script(_body: dict[str, Any], number: int) -> str:
            together.wait()
            return f"answer {number}"

        recorder = Recorder(storage)
        client = ScriptedApi(script).client(middleware=[recorder])

        def sample() -> None:
            client.messages.create(messages=[user("A long ask")], **ASK)

        threads = [threading.Thread(target=sample) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        states = [storage.load(each) for each in recorder.sessions]
        assert len({state.messages.raw[1] for state in states if state}) == 4
        assert [state.parent_id for state in states if state] == [None, *[recorder.sessions[0]] * 3]


def test_asynchronous_calls_at_the_same_time_are_forks_too(tmp_path: Path) -> None:
    async def main() -> None:
        async with EventSessionStorage(tmp_path / "log") as storage:
            recorder = Recorder(storage)
            script = Reply(content="Yes.", delay=Delay(before_seconds=0.05))
            async with ScriptedApi([script] * 5).async_client(middleware=[recorder]) as client:
                asks = [client.messages.create(messages=[user("Same")], **ASK) for _ in range(5)]
                await asyncio.gather(*asks)
            states = [await storage.load(each) for each in recorder.sessions]
            assert [len(state.messages) for state in states if state] == [2] * 5
            assert {state.parent_id for state in states[1:] if state} == {recorder.sessions[0]}

    asyncio.run(main())


def test_a_sub_agent_is_a_session_of_its_own_linked_to_the_call_that_caused_it() -> None:
    storage = in_memory()
    api = ScriptedApi([Reply(content=[calls("research", {}, "toolu_r")]), "Found it.", "Done."])
    recorder = Recorder(storage)
    client = api.client(middleware=[recorder])
    tools: Any = [{"name": "research", "input_schema": {"type": "object"}}]
    first = client.messages.create(messages=[user("Main task")], tools=tools, **ASK)
    client.messages.create(messages=[user("Research this")], system="You research.", **ASK)
    result = {"type": "tool_result", "tool_use_id": "toolu_r", "content": "Found it."}
    history: Any = [
        user("Main task"),
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [result]},
    ]
    client.messages.create(messages=history, tools=tools, **ASK)
    main, sub = recorder.sessions
    assert (sub, run_of([sub, "other", main, f"{main}.x"], sub)) == (f"{main}.2", [main, sub])
    created = events_of(storage, sub)[0]
    called = next(s.version for s in stored_of(storage, main) if isinstance(s.event, ResponseReceived))
    assert created == SessionCreated(sub, cause=f"{main}@{called}", origin="recorder")
    assert [len(state_of(storage, each).messages) for each in (main, sub)] == [4, 2]
    assert state_of(storage, sub).parent_id is None


def test_a_call_that_extends_an_earlier_point_is_a_fork_there() -> None:
    storage = in_memory()
    api = ScriptedApi([f"answer {number}" for number in range(9)])
    recorder = Recorder(storage)
    client = api.client(middleware=[recorder])
    history = converse(client, "Ask 1", "Ask 2")
    client.messages.create(messages=[*history[:2], user("Another way")], **ASK)
    client.messages.create(messages=[*history[:3]], **ASK)
    root, edited, again = [state_of(storage, each) for each in recorder.sessions]
    assert (edited.parent_id, again.parent_id) == (root.id, root.id)
    assert edited.messages.raw[:2] == root.messages.raw[:2]
    assert again.messages.raw[:3] == root.messages.raw[:3]
    assert [state.messages.raw[-1].count(b"answer") for state in (root, edited, again)] == [1, 1, 1]
    own = types_of(storage, again.id, after=again.forked_at)
    assert own == ["session_forked", "request_sent", "usage_recorded", "response_received"]


def test_the_same_conversation_under_another_system_is_a_fork_that_says_so() -> None:
    storage = in_memory()
    recorder = Recorder(storage)
    client = ScriptedApi(["One.", "Two.", "Three."]).client(middleware=[recorder])
    history = converse(client, "Ask 1", system="It is nine.")
    client.messages.create(messages=[*history, user("Ask 2")], system="It is ten.", **ASK)
    client.messages.create(messages=[user("Ask 1")], system="It is eleven.", **ASK)
    nine, ten, eleven = [state_of(storage, each) for each in recorder.sessions]
    assert (ten.parent_id, ten.prompt.system, nine.prompt.system) == (nine.id, b'"It is ten."', b'"It is nine."')
    assert eleven.parent_id is None, "the same first ask is not yet the same conversation"


def test_cache_control_and_the_form_of_an_answer_make_no_other_conversation() -> None:
    storage = in_memory()
    recorder = Recorder(storage)
    client = ScriptedApi([Reply(content="One."), Reply(content="Two."), "Three."]).client(middleware=[recorder])
    mark = {"cache_control": {"type": "ephemeral"}}
    history: Any = [{"role": "user", "content": [{"type": "text", "text": "Ask 1", **mark}]}]
    first = client.messages.create(messages=history, **ASK)
    history = [user("Ask 1"), {"role": "assistant", "content": [first.content[0].model_dump()]}]
    history.append({"role": "user", "content": [{"type": "text", "text": "Ask 2", **mark}]})
    client.messages.create(messages=history, **ASK)
    history[-1] = user("Ask 2")
    history += [{"role": "assistant", "content": "Two."}, user("Ask 3")]
    client.messages.create(messages=history, **ASK)
    (session_id,) = recorder.sessions
    assert len(state_of(storage, session_id).messages) == 6


def test_a_changed_parameter_or_model_is_an_event_of_the_same_session() -> None:
    storage = in_memory()
    recorder = Recorder(storage)
    client = ScriptedApi(["One.", "Two."]).client(middleware=[recorder])
    history = converse(client, "Ask 1")
    client.messages.create(
        messages=[*history, user("Ask 2")],
        model="claude-haiku-4-5",
        max_tokens=300,
    )
    (session_id,) = recorder.sessions
    state = state_of(storage, session_id)
    assert (state.prompt.model, state.prompt.parameters) == ("claude-haiku-4-5", b'{"max_tokens":300}')
    assert types_of(storage, session_id).count("prompt_changed") == 2


def test_a_refused_turn_is_left_out_and_the_session_goes_on_without_it() -> None:
    storage = in_memory()
    recorder = Recorder(storage)
    script: list[Any] = ["One.", Reply(content="", stop_reason="refusal"), "Three."]
    client = ScriptedApi(script).client(middleware=[recorder])
    history = converse(client, "Ask 1")
    client.messages.create(messages=[*history, user("Forbidden")], **ASK)
    client.messages.create(messages=[*history, user("Ask 2")], **ASK)
    (session_id,) = recorder.sessions
    state = state_of(storage, session_id)
    assert [message["content"] for message in state.messages[::2]] == ["Ask 1", "Ask 2"]
    assert state.refused_turns == 1


def test_a_named_session_is_gone_on_with_by_the_next_run(tmp_path: Path) -> None:
    api = ScriptedApi([f"answer {number}" for number in range(9)])
    with Recorder(tmp_path / "log", session="agent-7") as recorder:
        history = converse(api.client(middleware=[recorder]), "Ask 1", "Ask 2")
        assert recorder.sessions == ["agent-7"]
    with Recorder(tmp_path / "log", session="agent-7") as recorder:
        client = api.client(middleware=[recorder])
        client.messages.create(messages=[*history, user("Ask 3")], **ASK)
        client.messages.create(messages=[*history[:2], user("Other")], **ASK)
        client.messages.create(messages=[user("Else")], **ASK)
        assert recorder.sessions == ["agent-7", "agent-7.2", "agent-7.3"]
    with Recorder(tmp_path / "log", session="agent-7") as recorder:
        api.client(middleware=[recorder]).messages.create(messages=[user("Once more")], **ASK)
        assert recorder.sessions == ["agent-7", "agent-7.4"], "names that are taken are left alone"
    with BlockingEventSessionStorage(tmp_path / "log") as storage:
        states = [storage.load(each) for each in ("agent-7", "agent-7.2", "agent-7.3", "agent-7.4")]
        assert [(len(state.messages), state.parent_id) for state in states if state] == [
            (6, None), (4, "agent-7"), (2, None), (2, None),
        ]  # fmt: skip


@pytest.mark.parametrize("first", ["Ask 1", "Ask 2", "Else", "both"])
def test_what_an_earlier_run_left_open_is_lost_wherever_the_next_one_goes(first: str) -> None:
    storage, api = in_memory(), ScriptedApi([f"answer {number}" for number in range(9)])
    before = Recorder(storage, session="job")
    client = api.client(middleware=[before])
    history = converse(client, "Ask 1")
    left = client.messages.create(
        messages=[*history, user("Ask 2")], stream=True, **ASK
    )  # and nobody hears of it again
    open_request = [event for event in events_of(storage, "job") if isinstance(event, RequestSent)][-1].request_id
    with Recorder(storage, session="job") as recorder:
        client = api.client(middleware=[recorder])
        session.storage._now.run_now(storage.update_metadata("job", title="A job"))
        if first in {"Ask 2", "both"}:
            client.messages.create(messages=[*history, user("Ask 2")], **ASK)
        if first != "Ask 2":
            client.messages.create(messages=[user("Else" if first == "both" else first)], **ASK)
    marked = [event for event in events_of(storage, "job") if isinstance(event, ResponseInterrupted)]
    assert [(event.request_id, event.reason) for event in marked] == [(open_request, "lost")]
    assert state_of(storage, "job").status != "running"
    assert len(recorder.sessions) == (1 if first == "Ask 2" else 2)
    assert recorder.failures == []
    del left


def test_what_a_run_that_goes_on_beside_this_one_has_open_is_not_lost() -> None:
    storage, api = in_memory(), ScriptedApi([f"answer {number}" for number in range(9)])
    first = Recorder(storage, session="job")
    client = api.client(middleware=[first])
    history = converse(client, "Ask 1")
    with Recorder(storage, session="job") as idle, Recorder(storage, session="other"):
        pass
    stream = client.messages.create(messages=[*history, user("Ask 2")], stream=True, **ASK)
    with Recorder(storage, session="job") as second:
        converse(api.client(middleware=[second]), "Else")
        list(stream)
    assert first.sessions == ["job"]
    assert (second.sessions, idle.sessions) == (["job", "job.2"], ["job"])
    assert "response_interrupted" not in types_of(storage, "job")
    assert len(state_of(storage, "job").messages) == 4


def test_what_cannot_be_marked_as_lost_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    api = ScriptedApi(["One.", "Two."])
    with BlockingEventSessionStorage(tmp_path / "log") as storage:
        left = api.client(middleware=[Recorder(storage, session="job")]).messages.create(
            messages=[user("Go")], stream=True, **ASK
        )
        recorder = Recorder(storage, session="job")
    recorder.close()
    assert [failure.session_id for failure in recorder.failures] == ["job"]
    assert "not marked as lost" in caplog.text
    del left


def test_metadata_set_meanwhile_disturbs_nobody_and_another_writer_makes_a_fork() -> None:
    storage = in_memory()
    recorder = Recorder(storage)
    blocking = session.storage._now.run_now
    client = ScriptedApi(["One.", "Two.", "Three."]).client(middleware=[recorder])
    history = converse(client, "Ask 1")
    (root,) = recorder.sessions
    blocking(storage.update_metadata(root, title="A title"))
    client.messages.create(messages=[*history, user("Ask 2")], **ASK)
    assert recorder.sessions == [root]
    blocking(storage.append(root, [MessageAppended.of(user("From elsewhere"))]))
    history = [*history, user("Ask 2"), {"role": "assistant", "content": "Two."}, user("Ask 3")]
    client.messages.create(messages=history, **ASK)
    assert recorder.sessions == [root, f"{root}.2"]
    theirs, ours = state_of(storage, root), state_of(storage, f"{root}.2")
    assert (ours.parent_id, ours.metadata) == (root, {"title": "A title"})
    assert [len(state.messages) for state in (theirs, ours)] == [5, 6]


def test_other_endpoints_pass_unrecorded() -> None:
    storage = in_memory()
    recorder = Recorder(storage)
    client = ScriptedApi([]).client(middleware=[recorder])
    with pytest.raises(Exception, match="Not found"):
        client.models.list()
    with pytest.raises(Exception, match="Not found"):
        client.messages.count_tokens(model=MODEL, messages=[user("How long?")])
    assert recorder.sessions == []


# --- what is kept of a call -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_body_of_a_response_is_kept_chunk_for_chunk(stream: bool, asynchronous: bool) -> None:
    storage = in_memory()
    content: Any = [
        thinks("Hm…"),
        says('A "quoted" \\ text\nwith lines. ' * 9),
        calls("add", '{"a": 1.10, "b": "\\u00e9é"}'),
    ]
    api = ScriptedApi([Reply(content=content, chunk_seed=7)])
    recorder = Recorder(storage)

    async def main() -> None:
        async with api.async_client(middleware=[recorder]) as client:
            answer: Any = await client.messages.create(messages=[user("Go")], stream=stream, **ASK)
            if stream:
                async for _ in answer:
                    pass

    if asynchronous:
        asyncio.run(main())
    else:
        answer: Any = api.client(middleware=[recorder]).messages.create(messages=[user("Go")], stream=stream, **ASK)
        if stream:
            list(answer)
    events = events_of(storage, recorder.sessions[0])
    received = events[-1]
    assert isinstance(received, ResponseReceived)
    answered = api.calls[0].answer
    assert answered is not None
    sent = list(answered.chunks) if hasattr(answered, "chunks") else []
    assert body_of(received, events) == (sent if stream else [b"".join(sent)])
    assert b"1.10" in state_of(storage, recorder.sessions[0]).messages.raw[1]
    assert len(received.chunks) < 0.5 * len(b"".join(sent))


def test_the_digest_of_a_request_can_be_computed_from_what_was_sent() -> None:
    storage = in_memory()
    api = ScriptedApi(["One.", "Two."])
    recorder = Recorder(storage)
    converse(api.client(middleware=[recorder]), "Ask 1", "Ask 2", system="Be brief.")
    requests = [event for event in events_of(storage, recorder.sessions[0]) if isinstance(event, RequestSent)]
    for call, request in zip(api.calls, requests, strict=True):
        body = call.json
        apart = {"model", "messages", "system", "tools"}
        parameters = {key: value for key, value in body.items() if key not in apart}
        prompt = prompt_digest(body.get("tools"), body["system"])
        assert request.digest == request_digest(
            parameters_digest(MODEL, parameters), prompt, chain(body["messages"])[-1]
        )


def test_usage_is_priced_when_it_is_recorded() -> None:
    storage = in_memory()
    recorder = Recorder(storage)
    converse(ScriptedApi(["One."]).client(middleware=[recorder]), "Ask")
    (recorded,) = [event for event in events_of(storage, recorder.sessions[0]) if isinstance(event, UsageRecorded)]
    assert recorded.cost_picodollars
    assert (recorded.model, recorded.tier) == (MODEL, "standard")
    assert state_of(storage, recorder.sessions[0]).usage.cost_picodollars == recorded.cost_picodollars


def test_exact_bytes_that_the_program_sends_are_kept_as_they_are() -> None:
    storage = in_memory()
    recorder = Recorder(storage)
    client = ScriptedApi(["One."]).client(middleware=[recorder])
    message = b'{ "content":"\\u00e9 1","role":"user" }'
    body = b'{"model":"%b","max_tokens": 100,"metadata":{ "user_id":"\\u0061"},"messages":[%b]}' % (
        MODEL.encode(),
        message,
    )
    client.post("/v1/messages", content=body, cast_to=object)
    state = state_of(storage, recorder.sessions[0])
    assert state.messages.raw[0] == message
    assert state.prompt.parameters == b'{"max_tokens":100,"metadata":{ "user_id":"\\u0061"}}'


def test_a_recorder_is_loaded_when_it_is_asked_for() -> None:
    assert session.Recorder is Recorder
    not_event_sourced: Any = session.MemorySessionStorage()
    with pytest.raises(TypeError, match="event-sourced storage"):
        Recorder(not_event_sourced)
    with pytest.raises(session.InvalidSessionIdError):
        Recorder(in_memory(), session="../x")
