"""What identifies a message: the same for what the API does not tell apart, and nothing else."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session.recording.digests import _nested_text, message_digest

TEXTS = st.text(st.characters(exclude_categories=()), max_size=8)
PARTS: st.SearchStrategy[Any] = TEXTS | st.none() | st.integers() | st.just([])
BLOCKS: st.SearchStrategy[Any] = st.fixed_dictionaries(
    {"type": st.just("text") | PARTS, "text": PARTS}, optional={"citations": PARTS}
)
MESSAGES: st.SearchStrategy[Any] = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant"]) | PARTS, "content": PARTS | st.lists(BLOCKS, max_size=2)},
    optional={"id": PARTS},
)


def _by_the_letter(message: dict[str, Any]) -> bytes:
    """A text stands for the one block it is, what is null is absent, and keys are sorted."""

    def block(value: dict[str, Any]) -> dict[str, Any]:
        return {key: part for key, part in value.items() if part is not None}

    message = block(message)
    content = message.get("content")
    if isinstance(content, str):
        message["content"] = [{"type": "text", "text": content}] if content else []
    elif isinstance(content, list):
        message["content"] = [block(part) for part in content]
    return hashlib.sha256(json.dumps(message, separators=(",", ":"), sort_keys=True).encode()).digest()


@given(MESSAGES)
def test_a_digest_is_that_of_the_sorted_text(message: Any) -> None:
    assert message_digest(message) == _by_the_letter(message)


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": 'Say \x00 \x7f \u2028 \ud800 \U0001f600 and "this" \\ that'},
        {"content": [{"text": "Hello", "type": "text"}], "role": "assistant"},
        {"role": "assistant", "content": [{"type": "text", "text": ""}]},
        {"role": "user", "content": ""},
        {"role": "user", "content": [{"type": "image", "text": "x"}]},
    ],
)
def test_messages_of_one_text_are_no_exception(message: Any) -> None:
    assert message_digest(message) == _by_the_letter(message)


def test_what_nests_as_deep_as_the_stack_has_a_digest() -> None:
    for levels in (500, 900, 1_000, 10_000):
        value: Any = 1
        for _ in range(levels):
            value = {"a": [value]}
        message = {"role": "user", "content": [{"type": "x", "y": value}]}
        assert message_digest(message) == message_digest(message)


@given(st.recursive(PARTS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3)))
def test_a_nested_text_is_the_sorted_text(value: Any) -> None:
    assert _nested_text(value) == json.dumps(value, separators=(",", ":"), sort_keys=True)
