"""A served response is what the SDK itself would have made of the bytes: whatever a program asks it for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import anthropic
import pytest

from session import sdk
from session.sdk import Broken
from session.testing import Failure, says
from tests.session.recording.kit import ASK, user
from tests.session.replay.kit import record, replay

if TYPE_CHECKING:
    from anthropic import Anthropic, APIRequest, AsyncAnthropic

GO: Any = [user("Go")]
BODY: dict[str, Any] = {**ASK, "messages": GO}


def raw(client: Anthropic) -> list[Any]:
    response = client.messages.with_raw_response.create(messages=GO, **ASK)
    parsed = response.parse()
    return [type(response), response.status_code, response.request_id, response.retries_taken, parsed.to_json()]


def streaming(client: Anthropic) -> list[Any]:
    with client.messages.with_streaming_response.create(messages=GO, **ASK) as response:
        return [type(response), b"".join(response.iter_bytes()), response.headers.get("request-id")]


def streamed_lines(client: Anthropic) -> list[Any]:
    with client.messages.with_streaming_response.create(messages=GO, stream=True, **ASK) as response:
        return list(response.iter_lines())


def as_object(client: Anthropic) -> list[Any]:
    return [client.post("/v1/messages", body=BODY, cast_to=object)]


def as_response(client: Anthropic) -> list[Any]:
    found: Any = client.post("/v1/messages", body=BODY, cast_to=anthropic.APIResponse[anthropic.types.Message])
    return [type(found), found.parse().to_json()]


def retried(client: Anthropic) -> list[Any]:
    response = client.messages.with_raw_response.create(messages=GO, **ASK)
    return [response.retries_taken, response.parse().to_json()]


def refused(client: Anthropic) -> list[Any]:
    try:
        client.messages.create(messages=GO, **ASK)
    except anthropic.APIStatusError as error:
        return [type(error), error.status_code, error.request_id, error.type, error.body, str(error)]
    raise AssertionError("it was refused")


async def raw_async(client: AsyncAnthropic) -> list[Any]:
    response = await client.messages.with_raw_response.create(messages=GO, **ASK)
    parsed = response.parse()
    answer: Any = await parsed if asyncio.iscoroutine(parsed) else parsed
    return [type(response), response.status_code, answer.to_json()]


async def streaming_async(client: AsyncAnthropic) -> list[Any]:
    async with client.messages.with_streaming_response.create(messages=GO, stream=True, **ASK) as response:
        return [line async for line in response.iter_lines()]


WELL: list[Any] = ["Well."]


@pytest.mark.parametrize(
    ("program", "script"),
    [
        (raw, WELL),
        (streaming, WELL),
        (streamed_lines, WELL),
        (as_object, WELL),
        (as_response, WELL),
        (retried, [Failure(status=429), *WELL]),
        (refused, [Failure(status=400, message="No.")]),
        (raw_async, WELL),
        (streaming_async, WELL),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_program_that_looks_at_the_response_sees_the_recorded_one(program: Any, script: Any) -> None:
    storage, root, recorded = record(program, script)
    assert replay(program, storage, root) == recorded


def test_a_stream_may_be_asked_for_where_none_was_recorded_and_the_other_way_round() -> None:
    def whole(client: Anthropic) -> Any:
        return client.messages.create(messages=GO, **ASK)

    def stream(client: Anthropic) -> Any:
        with client.messages.stream(messages=GO, **ASK) as events:
            return events.get_final_message()

    for one, other in ((whole, stream), (stream, whole)):
        storage, root, recorded = record(one, WELL)
        served = replay(other, storage, root)
        assert (served.id, served.usage, served.stop_reason) == (recorded.id, recorded.usage, recorded.stop_reason)
        assert [block.to_dict() for block in served.content] == [block.to_dict() for block in recorded.content]
        assert [block.to_dict() for block in served.content] == [says("Well.")]


def test_an_error_that_is_retried_at_once_is_still_one_of_the_connection() -> None:
    seen: list[Exception] = []

    def fail(request: APIRequest, _next: Any) -> Any:
        seen.append(sdk.made_error(Broken("APITimeoutError", "ReadTimeout"), request, pause=0.0))
        raise seen[-1]

    client = anthropic.Anthropic(api_key="none", max_retries=3, middleware=[fail])
    with client, pytest.raises(anthropic.APITimeoutError):
        client.messages.create(messages=GO, **ASK)
    assert len(seen) == 4
