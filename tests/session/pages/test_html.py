"""The HTML page: what is on it, and what can never be."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from session.events import (
    BlockReceived,
    MessageAppended,
    MetadataUpdated,
    PromptChanged,
    ResponseReceived,
    SessionForked,
    ToolStarted,
    UsageRecorded,
)
from session.jsontext import encode
from session.pages import html_page
from session.pages._style import STYLE
from session.pages.html import POLICY
from session.state import SessionState
from session.storage.blocking import BlockingEventSessionStorage
from tests.session.histories import histories
from tests.session.pages.safety import SCRIPT, Page, hostile_conversation, payloads, unpoliced

if TYPE_CHECKING:
    from pathlib import Path

    from session.events import AnyEvent

PAYLOADS = payloads()
STRANGE = st.text(
    st.sampled_from("<>&\"'`*#[]()!\\/:;=-~\n\r\t\x00\x1b\u202e\ud800\ufeff\U000e0041 abhttps://.mailto:")
)


def store(path: Path) -> BlockingEventSessionStorage:
    return BlockingEventSessionStorage(path / "store", durability="os")


def page_of(storage: BlockingEventSessionStorage, session_id: str = "a", **options: Any) -> Page:
    text = "".join(html_page(storage, session_id, **options))
    assert text.count("<script") == 0
    return Page(text)


def write_hostile(storage: BlockingEventSessionStorage, session_id: str, payload: str) -> None:
    """*payload* in every field of events and messages."""
    prompt = PromptChanged(payload, encode(payload), encode([{"name": payload}]), encode({payload: payload}))
    events: list[AnyEvent] = [
        MetadataUpdated(encode({"title": payload, payload: payload})),
        prompt,
        *(MessageAppended.of(message, message_id=payload) for message in hostile_conversation(payload)),
        UsageRecorded(encode({payload: 7, "input_tokens": 5}), payload, payload, 10**9, payload, payload),
        ResponseReceived("r", payload, payload, payload, content=encode([{"type": "text", "text": payload}])),
        BlockReceived("r2", 0, encode({"type": "tool_use", "id": payload, "name": payload, "input": {}}), payload),
        ToolStarted(payload, payload),
    ]
    storage.append(session_id, events, expected=0)


# ------------------------------------------------------------------------------------------------------------- safety


def test_there_are_enough_payloads() -> None:
    assert len(set(PAYLOADS)) >= 60


@pytest.mark.parametrize("number", range(0, len(PAYLOADS), 12))
def test_nothing_of_what_was_said_is_markup(tmp_path: Path, number: int) -> None:
    with store(tmp_path) as storage:
        for place, payload in enumerate(PAYLOADS[number : number + 12]):
            write_hostile(storage, f"s{place}", payload)
            page = page_of(storage, f"s{place}")
            if payload.isprintable() and payload.isascii():
                # system, thinking, text, names and values of inputs, results, roles, models, title, notes
                assert page.text.count(payload.replace("`", "").replace("*", "")) + page.text.count(payload) >= 15, (
                    payload
                )


def test_the_same_check_refuses_a_page_that_does_not_escape(tmp_path: Path) -> None:
    with store(tmp_path) as storage:
        storage.save(SessionState.new("a", messages=[{"role": "user", "content": "PLACE"}]))
        text = "".join(html_page(storage, "a"))
    refused = 0
    for payload in PAYLOADS:
        try:
            Page(text.replace("PLACE", payload))
        except (AssertionError, UnicodeEncodeError):
            refused += 1
    assert refused >= 60


@settings(max_examples=50)
@given(text=STRANGE | st.text(st.characters()))
def test_any_text_is_shown_as_text(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    with store(tmp_path_factory.mktemp("any")) as storage:
        write_hostile(storage, "a", text)
        page_of(storage)


@settings(max_examples=40)
@given(events=histories)
def test_any_history_has_a_page(events: list[AnyEvent], tmp_path_factory: pytest.TempPathFactory) -> None:
    with store(tmp_path_factory.mktemp("any")) as storage:
        storage.append("a", [MessageAppended.of({"role": "user", "content": "begin"}), *events], expected=0)
        page_of(storage)


def test_the_policy_allows_nothing_but_the_style_on_the_page(tmp_path: Path) -> None:
    with store(tmp_path) as storage:
        storage.save(SessionState.new("a"))
        text = "".join(html_page(storage, "a"))
        page = Page(text)
    assert page.metas[1] == {"http-equiv": "Content-Security-Policy", "content": POLICY}, "before anything it is for"
    [style] = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style == STYLE
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert POLICY.split("; ")[:2] == ["default-src 'none'", f"style-src 'sha256-{digest}'"]
    assert "url(" not in STYLE
    assert "@import" not in STYLE
    assert unpoliced(text) != text


@pytest.mark.parametrize(
    ("text", "links"),
    [
        ("see https://a.example/b?c=d&e=f#g.", ["https://a.example/b?c=d&e=f#g"]),
        ("(http://a.example/)", ["http://a.example/"]),
        ("mailto:a@b.example", ["mailto:a@b.example"]),
        ("[x](https://a.example)", ["https://a.example"]),
        ("https://a.example/\u202egpj.exe", ["https://a.example/"]),
        ("https://ex\u0430mple.com", ["https://ex"]),
        (f"javascript:{SCRIPT} data:text/html,x file:///etc/passwd ftp://a.example //a.example", []),
        ("`https://a.example`", []),
    ],
)
def test_a_link_shows_where_it_leads(tmp_path: Path, text: str, links: list[str]) -> None:
    with store(tmp_path) as storage:
        storage.save(SessionState.new("a", messages=[{"role": "user", "content": text}]))
        page = page_of(storage)
    assert [link for link in page.links if not link.startswith("#")] == links
    assert all(link in page.text for link in links)


def test_what_cannot_be_seen_is_made_visible(tmp_path: Path) -> None:
    with store(tmp_path) as storage:
        text = "a\x00b\x1b[2Jc\u202ed\ud800e\U000e0041f\u200bg\r\nh\ti\U0001f468\u200d\U0001f469"
        storage.save(SessionState.new("a", messages=[{"role": "user", "content": text}]))
        seen = page_of(storage).text
    shown = "a␀b␛[2Jc⟨U+202E⟩d⟨U+D800⟩e⟨U+E0041⟩f⟨U+200B⟩g\nh\ti\U0001f468\u200d\U0001f469"
    assert shown in seen


# ----------------------------------------------------------------------------------------------------- what is on it


TALK: list[dict[str, Any]] = [
    {"role": "user", "content": "first ask"},
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "secret thought", "signature": "c2ln"},
            {"type": "tool_use", "id": "t1", "name": "bash", "input": {"command": "ls\n-la"}},
            {"type": "tool_use", "id": "t2", "name": "grep", "input": {}},
        ],
    },
    {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "t2", "content": "second result"},
            {"type": "tool_result", "tool_use_id": "t1", "content": "first result", "is_error": True},
            {"type": "text", "text": "and by the way"},
        ],
    },
    {"role": "assistant", "content": "the answer"},
]


def ordered(text: str, *parts: str) -> bool:
    """Whether *parts* stand in *text* in this order."""
    places = list(itertools.accumulate(parts, lambda place, part: text.index(part, place), initial=0))
    return places == sorted(places)


def test_calls_stand_with_their_results_and_thinking_is_folded(tmp_path: Path) -> None:
    with store(tmp_path) as storage:
        storage.save(SessionState.new("a", messages=TALK, metadata={"title": "A talk"}))
        raw = "".join(html_page(storage, "a"))
        page = Page(raw)
    assert ordered(
        page.text, "A talk", "Turn 1", "first ask", "secret thought", "bash", "ls\n-la", "first result", "grep",
        "second result", "and by the way", "the answer",
    )  # fmt: skip
    assert page.text.count("first result") == page.text.count("second result") == 1
    assert re.search(r'<details class="thinking"><summary>Thinking</summary>.*?secret thought', raw, re.DOTALL)
    assert 'class="result error"' in raw


def test_the_heading_lets_a_reader_check(tmp_path: Path) -> None:
    with store(tmp_path) as storage:
        storage.save(SessionState.new("a", messages=TALK))
        storage.fork("a", "b", at=3, reason="try")
        kept = storage.verify("a").digest.hex()
        text, earlier, child = (page_of(storage, *asked).text for asked in (("a",), ("a",), ("b",)))
        earlier = page_of(storage, "a", at=2).text
        assert kept in text
        assert "b@3" in text, "forks are named"
        assert "a@3" in child, "so is the parent"
        assert storage.verify("b").digest.hex() in child
        assert kept not in earlier
        assert "at version 2" in earlier
        assert "the answer" not in earlier


def test_usage_and_cost_are_told_per_turn_and_in_all(tmp_path: Path) -> None:
    with store(tmp_path) as storage:
        for number, cost in ((1, 10**10), (2, None)):
            used = UsageRecorded(b'{"input_tokens":%d000,"output_tokens":5}' % number, cost_picodollars=cost)
            answer = ResponseReceived("r", f"msg_{number}", f"claude-{number}", "end_turn", content=b'"yes"')
            storage.append(
                "a", [MessageAppended.of({"role": "user", "content": "?"}), used, answer], expected=3 * number - 3
            )
        text = page_of(storage).text
    assert ordered(
        text, "3,000 in · 10 out tokens · $0.0100 · 1 response without", "Turn 1", "1,000 in · 5 out tokens · $0.0100"
    )
    assert ordered(text, "Turn 2", "2,000 in · 5 out tokens · 1 response without a known price")
    assert ordered(text, "Turn 1", "claude-1", "Turn 2", "claude-2")


def test_what_was_rewound_is_not_shown_but_told_of(tmp_path: Path) -> None:
    with store(tmp_path) as storage:
        state = storage.save(SessionState.new("a", messages=TALK))
        storage.save(state.replace(messages=[*TALK[:1], {"role": "assistant", "content": "another answer"}]))
        text = page_of(storage).text
    assert "the answer" not in text
    assert "another answer" in text
    assert "3 messages were set aside" in text


def test_a_page_of_a_longer_session_takes_no_more_memory(tmp_path: Path) -> None:
    filler = "x" * 40_000
    peaks = []
    with store(tmp_path) as storage:
        for session_id, turns in (("warm", 1), ("short", 40), ("long", 160)):  # the longest is 12.8 MB
            said: list[AnyEvent] = [
                MessageAppended.of({"role": "user", "content": filler}),
                ResponseReceived("r", content=encode(filler)),
            ]
            storage.append(session_id, said * turns, expected=0)
            tracemalloc.start()
            size = sum(map(len, html_page(storage, session_id)))
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            assert size > 80_000 * turns
    _, short, long = peaks
    assert long < 1.5 * short
    assert long < 4_000_000


def test_a_fork_that_lacks_its_name_has_a_page_under_its_own(tmp_path: Path) -> None:
    with store(tmp_path) as storage:
        storage.save(SessionState.new("a", messages=TALK))
        storage.log.fork("a", "b", at=3)
        assert "b at version 3" in page_of(storage, "b").text
        assert SessionForked.type not in page_of(storage, "b").text
