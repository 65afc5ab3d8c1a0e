"""No header, key or token of the environment is ever in the store, and what `redact` takes away neither."""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING, Any
from unittest import mock

import anthropic
import httpx2
import pytest
from anthropic._base_client import BaseClient
from hypothesis import given
from hypothesis import strategies as st

from session.recording import Recorder, chunks_of
from session.storage._now import run_now
from session.testing import Cut, Exact, Failure, Reply, ScriptedApi, StreamError, calls, says, thinks
from tests.session.recording.kit import ASK, events_of, in_memory, state_of, user

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from session.storage import EventSessionStorage
    from session.testing.script import Step

SECRET = "sk-ant-api03-7Kq9ZxW2"
STEPS: list[Step] = [
    Reply(content="Well."),
    Reply(content=[thinks("Hm."), says("Text."), calls("add", {"a": 1})]),
    Reply(content="Text.", error=StreamError()),
    Reply(content="Cut.", cut=Cut(after_events=3, how="close")),
    Reply(content="Well.", headers={"set-cookie": f"session={SECRET}", "x-api-key": SECRET, "authorization": SECRET}),
    Failure(status=429, headers={"set-cookie": SECRET, "location": f"https://user:{SECRET}@example.org"}),
    Failure(status=500),
    Cut(how="reset"),
]
HEADERS = st.sampled_from(
    ["authorization", "x-api-key", "cookie", "x-custom", "proxy-authorization", "x-goog-api-key", "user-agent"]
)


def all_bytes(storage: EventSessionStorage) -> bytes:
    """Every byte that the log has: names, types, metas and data of all events."""
    records = run_now(storage.log.read_all(limit=10_000))
    return b"\n".join(
        str(getattr(record, "stream", "")).encode()
        + getattr(record, "type", "").encode()
        + getattr(record, "meta", b"")
        + getattr(record, "data", b"")
        for record in records
    ) + b"".join(_unpacked(storage))


def _unpacked(storage: EventSessionStorage) -> list[bytes]:
    """What is compressed in it."""
    found = []
    for session_id in run_now(storage.list()):
        events = events_of(storage, session_id)
        for event in events:
            if event.type in {"response_received", "response_interrupted"}:
                blocks = [
                    getattr(block, "block", b"")
                    for block in events
                    if block.type == "block_received"
                    and getattr(block, "request_id", "") == getattr(event, "request_id", "")
                ]
                found += [chunk.data for chunk in chunks_of(event, blocks) or ()]  # type: ignore[arg-type]
    return found


@pytest.fixture(autouse=True, scope="module")
def _no_waiting() -> Iterator[None]:
    """Between attempts the SDK waits half a second and more."""
    with mock.patch.object(BaseClient, "_calculate_retry_timeout", return_value=0):
        yield


@given(
    step=st.sampled_from(STEPS),
    header=HEADERS,
    stream=st.booleans(),
    place=st.sampled_from(["client", "call", "query", "address", "environment"]),
    credential=st.sampled_from(["api_key", "auth_token"]),
)
def test_no_secret_of_a_client_is_in_any_stored_byte(
    step: Step, header: str, place: str, credential: str, *, stream: bool
) -> None:
    storage = in_memory()
    api = ScriptedApi([step] * 2)
    recorder = Recorder(storage)
    options: dict[str, Any] = {"api_key": None, "middleware": [recorder], "max_retries": 1, credential: SECRET}
    call: dict[str, Any] = {}
    address = None
    if place == "client":
        options["default_headers"] = {header: SECRET}
    elif place == "call":
        call["extra_headers"] = {header: SECRET, "idempotency-key": SECRET}
    elif place == "query":
        call["extra_query"] = {"key": SECRET, "beta": "true"}
    elif place == "address":
        address = f"https://user:{SECRET}@example.org/{SECRET}"
    environment = {"ANTHROPIC_API_KEY": SECRET, "ANTHROPIC_AUTH_TOKEN": SECRET, "TOKEN": SECRET}
    with (
        mock.patch.dict(os.environ, environment),
        api.client(**options) as made,
        made.with_options(base_url=address) as client,
        contextlib.suppress(anthropic.APIError, httpx2.HTTPError),
    ):
        answer: Any = client.messages.create(messages=[user("Go")], stream=stream, **ASK, **call)
        list(answer)
    assert recorder.sessions
    assert SECRET.encode() not in all_bytes(storage)


def redact(text: str) -> str:
    return re.sub(r"sk-ant-\w+-\w+|hunter2", "[gone]", text)


PLACES: dict[str, Callable[[], dict[str, Any]]] = {
    "ask": lambda: {"messages": [user(f"My key is {SECRET}")]},
    "block": lambda: {"messages": [{"role": "user", "content": [says(f"{SECRET} hunter2")]}]},
    "system": lambda: {"messages": [user("Go")], "system": f"Use {SECRET}"},
    "tool": lambda: {"messages": [user("Go")], "tools": [{"name": "t", "description": SECRET, "input_schema": {}}]},
    "parameter": lambda: {"messages": [user("Go")], "metadata": {"user_id": SECRET}},
    "model": lambda: {"messages": [user("Go")], "model": f"claude-{SECRET}"},
    "beta": lambda: {"messages": [user("Go")], "extra_headers": {"anthropic-beta": SECRET}},
    "thread": lambda: {"messages": [user("Go")], "extra_body": {"thread": {"type": "new", "name": SECRET}}},
    "nothing": lambda: {"messages": [user("Go")]},
}
ANSWERS: list[Step] = [
    Reply(content=f"Your key is {SECRET}, hunter2.", delta_chars=3),
    Reply(content=[thinks(SECRET), calls("t", {"key": [SECRET]}, "toolu_1"), says("Well.")], delta_chars=5),
    Reply(content=f"Cut {SECRET} hunter2", delta_chars=40, cut=Cut(after_events=5)),
    Failure(status=400, message=f"{SECRET} is wrong"),
    Failure(status=429, headers={"retry-after": SECRET, "anthropic-ratelimit-x": SECRET, "x-should-retry": "false"}),
    Reply(content="Well."),
    Reply(content="Well.", stop_reason="stop_sequence", stop_sequence=SECRET),
    Reply(content="Well.", extra={"container": {"id": SECRET, "expires_at": "2026-01-01"}}),
    Reply(content="Well.", id=f"msg_{SECRET}"),
    Reply(content="Well.", model=f"claude-{SECRET}"),
    Reply(content="Well.", usage={"service_tier": SECRET}),
    Reply(content="Well.", headers={"request-id": SECRET}),
    Reply(content=[calls("t", {"a": 1}, f"toolu_{SECRET}")]),
    Reply(content=[calls("t", f'{{"a":"{SECRET}","a":"x"}}', "toolu_1")]),
    Reply(content=[f'{{"type":"text","text":"{SECRET}","text":"Well."}}']),
    Exact(body=f"<html>{SECRET}".encode(), status=502, content_type="text/html", headers={"x-should-retry": "false"}),
    Exact(body=f"<html>{SECRET}".encode(), content_type="text/html"),
]


@given(place=st.sampled_from(list(PLACES)), step=st.sampled_from(ANSWERS), stream=st.booleans())
def test_what_is_redacted_is_in_no_stored_byte_and_the_conversation_still_goes_on(
    place: str, step: Step, *, stream: bool
) -> None:
    storage = in_memory()
    recorder = Recorder(storage, redact=redact)
    client = ScriptedApi([step, "Next."], check_thinking=False).client(middleware=[recorder])
    asked = PLACES[place]()
    history = list(asked.pop("messages"))
    content: Any = None
    options = {**ASK, **asked}
    with contextlib.suppress(anthropic.APIError, AssertionError):  # of the SDK, for a page in place of a stream
        if stream:
            with client.messages.stream(messages=history, **options) as reading:
                content = reading.get_final_message()
        else:
            content = client.messages.create(messages=history, **options)
    if isinstance(content, str):
        content = None
    if content is not None and content.stop_reason == "end_turn":
        history += [{"role": "assistant", "content": content.content}, user("Go on")]
        client.messages.create(messages=history, **options)
        assert len(recorder.sessions) == 1, "it is recognised though it was redacted"
        assert len(state_of(storage, recorder.sessions[0]).messages) == 4
    stored = all_bytes(storage)
    assert SECRET.encode() not in stored
    assert b"hunter2" not in stored


def test_of_a_key_that_stands_twice_in_a_request_no_value_escapes() -> None:
    storage = in_memory()
    recorder = Recorder(storage, redact=redact)
    client = ScriptedApi(["Well."]).client(middleware=[recorder])
    body = b"""{"model":"m","max_tokens":5,"metadata":{"user_id":"hunter2","user_id":"x"},
        "system":[{"type":"text","text":"hunter2","text":"y"}],
        "messages":[{"role":"user","content":"hunter2","content":"Go"}]}"""
    client.post("/v1/messages", cast_to=object, content=body)
    assert b"hunter2" not in all_bytes(storage)
    assert state_of(storage, recorder.sessions[0]).messages[0] == user("Go")


def test_what_is_not_redacted_keeps_its_exact_bytes_and_chunks() -> None:
    storage = in_memory()
    recorder = Recorder(storage, redact=redact)
    client = ScriptedApi([Reply(content=[says("Well."), calls("t", '{"n": 1.10}', "toolu_1")])]).client(
        middleware=[recorder]
    )
    list(client.messages.create(messages=[user("Go")], stream=True, **ASK))
    assert b'{"n": 1.10}' in state_of(storage, recorder.sessions[0]).messages.raw[1]
    assert len(_unpacked(storage)) > 9
