"""The Markdown page, read by a parser of CommonMark: what was said stays in its place, and brings nothing along."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from session.pages import html_page, markdown_page
from session.pages._characters import HARMFUL
from session.state import SessionState
from tests.session.pages.safety import Page, payloads
from tests.session.pages.test_html import STRANGE, TALK, ordered, store, write_hostile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest
    from markdown_it.token import Token

    from session.storage.blocking import BlockingEventSessionStorage

OUR_HTML = re.compile(r"(</?details>|<summary>[A-Za-z ]+</summary>|\s)*")
MARKUP = st.lists(
    st.sampled_from(
        ["```", "~~~~", "\n", "\n\n", "    ", "- ", "> ", "1. ", "# ", "<b>", "<!--", "-->", "</details>", "<script>",
         "![a](http://x)", "[a](javascript:b)", "[r]: http://x\n", "[r]", "![r]", "`", "``", "\\", "&lt;", "<http://x>",
         "===", "---", "| a |\n|---|\n",
         "\t", "text", "*", "_", "</", "https://x.example", "\r", "\x00", "<details>", "](", "!["]
    ),
    max_size=14,
).map("".join)  # fmt: skip


def tokens_of(text: str) -> Iterator[tuple[Token, int]]:
    """Every token with the depth of quotation it stands at."""
    depth = 0
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        depth += {"blockquote_open": 1, "blockquote_close": -1}.get(token.type, 0)
        yield token, depth
        for inner in token.children or ():
            yield inner, depth


def check(text: str) -> list[str]:
    """The headings of the page; nothing in it is HTML, an image, or a link that hides where it leads."""
    assert not HARMFUL.search(text)
    headings, tokens = [], list(tokens_of(text))
    for place, (token, depth) in enumerate(tokens):
        assert token.type != "image"
        if token.type.startswith("html"):
            assert depth == 0, token.content
            assert OUR_HTML.fullmatch(token.content), token.content
        if token.type == "link_open":
            assert re.match("https?:|mailto:", str(token.attrGet("href")))
            assert tokens[place + 1][0].content == token.attrGet("href")
        if token.type == "heading_open" and depth == 0:
            headings.append(tokens[place + 1][0].content)
    return headings


def markdown_of(storage: BlockingEventSessionStorage, session_id: str = "a", **options: Any) -> str:
    text = "".join(markdown_page(storage, session_id, **options))
    text.encode()
    return text


def test_no_payload_in_any_field_brings_html_images_or_links(tmp_path: Path) -> None:
    with store(tmp_path) as storage:
        for place, payload in enumerate(payloads()):
            write_hostile(storage, f"s{place}", payload)
            check(markdown_of(storage, f"s{place}"))


@settings(max_examples=40)
@given(text=MARKUP | STRANGE)
def test_nothing_that_is_said_leaves_its_place(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    with store(tmp_path_factory.mktemp("any")) as storage:
        for name, said in (("a", text), ("b", "harmless")):
            messages: list[dict[str, Any]] = [
                {"role": "user", "content": said},
                {
                    "role": "assistant",
                    "content": [{"type": "thinking", "thinking": said}, {"type": "text", "text": said}],
                },
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": said, "content": said}]},
                {"role": "user", "content": "the end"},
            ]
            storage.save(SessionState.new(name, messages=messages))
        headings = check(markdown_of(storage))
        assert headings[1:] == check(markdown_of(storage, "b"))[1:], "the page has the same structure whatever is said"


def test_the_check_refuses_a_page_that_does_not_tame() -> None:
    refused = 0
    for payload in payloads():
        try:
            check(f"# Title\n\n{payload}\n")
        except AssertionError:
            refused += 1
    assert refused >= 50


def test_it_tells_what_the_page_tells(tmp_path: Path) -> None:
    with store(tmp_path) as storage:
        storage.save(SessionState.new("a", messages=TALK, metadata={"title": "A *talk*"}))
        storage.fork("a", "b", at=3)
        text, page = markdown_of(storage), Page("".join(html_page(storage, "a")))
        kept = storage.verify("a").digest.hex()
    assert check(text)[0] == r"A \*talk\*"
    assert ordered(
        text, kept, "b@3", "## Turn 1", "> first ask", "<summary>Thinking</summary>", "> secret thought",
        "**Tool bash**",
        "```text\nls\n-la\n```", "**Error**", "first result", "**Tool grep**", "second result", "> and by the way",
        "> the answer",
    )  # fmt: skip
    assert kept in page.text


def test_code_that_was_said_stays_as_it_was(tmp_path: Path) -> None:
    code = "```html\n<b>&amp;</b>\n![x](y)\n```"
    with store(tmp_path) as storage:
        storage.save(SessionState.new("a", messages=[{"role": "user", "content": f"look:\n{code}\nhm <b>"}]))
        text = markdown_of(storage)
    assert "> ```html\n> <b>&amp;</b>\n> ![x](y)\n> ```\n> hm &lt;b>\n" in text


def test_a_result_with_fences_is_fenced_by_a_longer_one(tmp_path: Path) -> None:
    with store(tmp_path) as storage:
        result = {"type": "tool_result", "tool_use_id": "t", "content": "a\n`````\n# not a heading"}
        storage.save(SessionState.new("a", messages=[{"role": "user", "content": [result]}]))
        text = markdown_of(storage)
    assert "``````text\na\n`````\n# not a heading\n``````\n" in text
    assert "not a heading" not in " ".join(check(text))
