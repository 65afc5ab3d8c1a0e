"""What a page may hold, and payloads that try to make it hold more."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from typing import Any

from session.pages._characters import HARMFUL
from session.pages.html import POLICY

ALLOWED: dict[str, set[str]] = {
    "html": {"lang"}, "head": set(), "body": set(), "title": set(), "style": set(), "header": set(), "main": set(),
    "meta": {"charset", "http-equiv", "content", "name"}, "nav": {"aria-label"},
    "h1": {"dir"}, "h2": {"id"}, "h3": set(), "p": {"class"}, "div": {"class", "dir"}, "span": {"class"},
    "dl": set(), "dt": set(), "dd": set(), "pre": {"dir"}, "code": set(), "strong": set(), "summary": set(),
    "article": {"class", "id"}, "details": {"class", "open"}, "a": {"href", "rel", "class"},
}  # fmt: skip
VOID = {"meta"}
ADDRESS = re.compile(r"#(turn-|v)[0-9]+|(https?://|mailto:)[!-~]+")

MARKER = "refold-xss"
SCRIPT = f"document.title='{MARKER}'"


def payloads(beacon: str = "http://127.0.0.1:9") -> list[str]:
    """Texts that run a script, load something or leave their place, wherever content is not escaped."""
    run, load = SCRIPT, f"{beacon}/loaded"
    closing = [
        "",
        '">',
        "'>",
        "</title>",
        "</style>",
        "</pre>",
        "</textarea>",
        "-->",
        "]]>",
        "</div></main></body></html>",
    ]
    scripts = [f"{end}<script>{run}</script>" for end in closing]
    tags = [
        f"<img src=x onerror={run}>",
        f"<img src={load}>",
        f"<svg onload={run}>",
        f"<svg><script>{run}</script></svg>",
        f"<svg><animate onbegin={run} attributeName=x dur=1s>",
        f"<body onload={run}>",
        f"<iframe srcdoc='<script>parent.{run}</script>'></iframe>",
        f"<iframe src=javascript:{run}></iframe>",
        f"<iframe src={load}></iframe>",
        f"<object data={load}></object>",
        f"<embed src={load}>",
        f"<video src={load} autoplay onerror={run}></video>",
        f"<audio src=x onerror={run}>",
        f"<details open ontoggle={run}>",
        f"<input autofocus onfocus={run}>",
        f"<select autofocus onfocus={run}>",
        f"<marquee onstart={run}>x</marquee>",
        f"<link rel=stylesheet href={load}>",
        f"<link rel=preload as=image href={load}>",
        f"<style>body{{background:url({load})}}</style>",
        f"<style>@import '{load}';</style>",
        f"<meta http-equiv=refresh content='0;url={load}'>",
        f"<meta http-equiv=refresh content='0;url=javascript:{run}'>",
        f"<base href={beacon}/>",
        f"<form action={load}><button autofocus onfocus={run}>x</button></form>",
        f"<math><mtext><table><mglyph><style><img src=x onerror={run}>",
        f"<noscript><p title='</noscript><img src=x onerror={run}>'>",
        f"<template><script>{run}</script></template>",
        f"<x onclick={run} tabindex=1 autofocus onfocus={run}>",
        f"<a href=javascript:{run} autofocus onfocus={run}>x</a>",
        f"<script src={load}></script>",
        f"<scr<script>ipt>{run}</scr</script>ipt>",
        f"<SCRIPT\x0c>{run}</SCRIPT\x0c>",
        f"<script\x00>{run}</script>",
        f"<\x00script>{run}</script>",
        f"<img\tsrc=x\nonerror\r={run}>",
        f"<!--><script>{run}</script>",
        f"<![CDATA[<script>{run}</script>]]>",
        f"<?xml-stylesheet href='javascript:{run}'?>",
        f"\ufeff<script>{run}</script>",
        f"\ud83c<script>{run}</script>\udf0d",
        f"+ADw-script+AD4-{run}+ADw-/script+AD4-",
        f"&lt;script&gt;{run}&lt;/script&gt;",
        f"&#60;script&#62;{run}&#60;/script&#62;",
        f"\uff1cscript\uff1e{run}\uff1c/script\uff1e",
    ]
    attributes = [
        f'" onmouseover="{run}" autofocus onfocus="{run}" x="',
        f"' onfocus='{run}' autofocus tabindex=0 x='",
        f"` onfocus=`{run}` autofocus",
        f'v1" onclick="{run}',
        f"x onerror={run} ",
        f'"/><svg/onload={run}>',
    ]
    markup = [
        f"[x](javascript:{run})",
        f"[x](data:text/html,<script>{run}</script>)",
        f"![x]({load})",
        f"![x][r]\n\n[r]: {load}",
        f"<javascript:{run}>",
        f'https://x.example/"onmouseover={run}//',
        f"https://x.example/<script>{run}</script>",
        f"http://x.example/'autofocus/onfocus='{run}",
        f"javascript:{run}",
        f"mailto:a@b.example?<script>{run}</script>",
        f"```\n</code></pre><script>{run}</script>\n```",
        f'```"><script>{run}</script>\ncode\n```',
        f"`</code><script>{run}</script>`",
        f"**</strong><script>{run}</script>**",
        f"# </strong><script>{run}</script>",
        f"- ```\n```\n<script>{run}</script>",
        f"> ```\n<script>{run}</script>",
        f"```\na\n   ```\n<script>{run}</script>",
        f"~~~\n```\n~~~\n<script>{run}</script>",
        "\u202e<tpircs>\u2066 evil \u2069",
        "\x1b]0;title\x07\x1b[2J",
        "\x00\x01\x7f\x85\u2028\u2029\ud800\udfff\ufffe\U000e0041",
    ]
    return [*scripts, *tags, *attributes, *markup]


def hostile_conversation(payload: str) -> list[dict[str, Any]]:
    """*payload* in every field of messages."""
    block = {"type": payload, payload: payload}
    return [
        {"role": "user", "content": payload},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": payload, "signature": payload},
                {"type": "redacted_thinking", "data": payload},
                {"type": "text", "text": payload, "citations": [block]},
                {"type": "tool_use", "id": payload, "name": payload, "input": {payload: payload, "path": [payload]}},
                {"type": "tool_use", "id": payload + "2", "name": payload, "input": payload},
                {"type": "server_tool_use", "id": payload + "3", "name": payload, "input": {"query": payload}},
                {"type": "web_search_tool_result", "tool_use_id": payload + "3", "content": [block]},
                block,
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": payload, "content": payload, "is_error": True},
                {
                    "type": "tool_result",
                    "tool_use_id": payload + "2",
                    "content": [{"type": "text", "text": payload}, _image(payload), block],
                },
                {"type": "tool_result", "tool_use_id": payload + "4", "content": payload},
                _image(payload),
            ],
        },
        {"role": payload, "content": payload},
        {"role": "user", "content": [payload]},
    ]


def _image(payload: str) -> dict[str, Any]:
    return {
        "type": "image",
        "title": payload,
        "source": {"type": "url", "url": payload, "media_type": payload, "data": payload},
    }


class Page(HTMLParser):
    """A page, taken apart, and refused if there is anything in it that may not be."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.texts: list[str] = []
        self.links: list[str] = []
        self.metas: list[dict[str, str | None]] = []
        self.feed(text)
        self.close()
        assert self.open == [], "every tag is closed"
        assert not HARMFUL.search(text)
        text.encode()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ALLOWED, tag
        given = dict(attrs)
        assert set(given) <= ALLOWED[tag], (tag, attrs)
        assert len(given) == len(attrs)
        if tag == "meta":
            self.metas.append(given)
        if "href" in given:
            assert ADDRESS.fullmatch(given["href"] or ""), given
            self.links.append(given["href"] or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def handle_decl(self, decl: str) -> None:
        assert decl == "DOCTYPE html"
        assert self.getpos() == (1, 0)

    def handle_pi(self, data: str) -> None:
        raise AssertionError(f"an instruction: {data}")

    def unknown_decl(self, data: str) -> None:
        raise AssertionError(f"a declaration: {data}")

    @property
    def text(self) -> str:
        return "".join(self.texts)


def unpoliced(page: str) -> str:
    """*page* without its policy: what is safe only because of that is not safe."""
    policed = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    assert policed in page
    return page.replace(policed, "")


def shown(text: str) -> str:
    """*text* as a page writes it."""
    return html.escape(text)
