"""What stands around the messages of a request is kept by a key: another request's is never taken for it."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from decimal import Decimal
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from session import jsontext
from session.recording import Recorder
from session.recording._asked import Asked, Parts
from session.testing import Reply, ScriptedApi
from tests.session.recording.kit import ASK, in_memory, state_of, user

ODD = [uuid.UUID(int=1), str(uuid.UUID(int=1)), Decimal(1), "1", b"x", dt.date(2020, 1, 1), "2020-01-01", (1,), [1]]
PLAIN = ["a", "\ud800", "\xe9", 1, 1.0, True, False, None, 0, 0.0, -0.0, 2**70, float("inf"), "true", "null", [], {}]
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from([*PLAIN, *ODD]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "\ud800"]), inner, max_size=2),
    max_leaves=4,
)
NAMES = ["model", "tools", "system", "temperature", "x\ud800"]
BODIES = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=3)


def _asked(body: Any, exact: bool) -> Asked | None:
    """Of a program that gives values, or the bytes it has written."""
    if not exact:
        return Asked(body, {}, None)
    try:
        spans = jsontext.members(json.dumps(body).encode())
    except TypeError:
        return None
    return Asked({name: jsontext.parse_or_show(text) for name, text in spans.items()}, spans, None)


@settings(max_examples=300)
@given(st.lists(st.tuples(BODIES, st.booleans()), min_size=2, max_size=12))
def test_what_is_kept_is_what_the_request_itself_says(given: list[tuple[Any, bool]]) -> None:
    parts = Parts()
    for body, exact in given:
        asked = _asked(body, exact)
        if asked is not None:
            assert parts.parameters(asked) == asked.parameter_part()
            assert parts.prompt(asked) == asked.prompt_part()


def test_a_redact_is_asked_each_time() -> None:
    secrets: list[str] = []

    def redact(text: str) -> str:
        for secret in secrets:
            text = text.replace(secret, "[x]")
        return text

    recorder = Recorder(storage := in_memory(), redact=redact)
    client = ScriptedApi([Reply(content="Yes."), Reply(content="Yes.")]).client(middleware=[recorder])
    around: Any = {"system": "You are s3cret", "metadata": {"user_id": "s3cret"}, **ASK}
    client.messages.create(messages=[user("One")], **around)
    secrets.append("s3cret")
    client.messages.create(messages=[user("Two")], **around)
    before, after = (state_of(storage, session).prompt for session in recorder.sessions)
    assert b"s3cret" in before.system
    assert b"s3cret" in before.parameters
    assert b"s3cret" not in after.system + after.parameters
