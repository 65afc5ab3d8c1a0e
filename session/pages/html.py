"""A session as one HTML page that needs nothing else, and can do nothing.

1. No script, no image, no frame, no style but our own: the page's policy allows none of them (`default-src 'none'`; the
   style by its hash), and no tag or attribute is ever made of content.
2. Content becomes text in one place (`_text`): escaped, with what cannot be seen made visible. So it is valid UTF-8.
3. Links lead to http, https and mailto addresses in ASCII, and show where they lead.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from typing import TYPE_CHECKING, Final, assert_never

from session.pages._characters import one_line, visible
from session.pages._facts import used, when
from session.pages._parts import Call, Media, Other, Part, Result, Text, Thinking
from session.pages._story import Heading, Item, Note, Said, TurnBegan, story
from session.pages._style import STYLE
from session.places import HEAD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from session.pages._story import ForkLine
    from session.places import At
    from session.storage.blocking import BlockingEventSessionStorage

OPEN_CHARACTERS: Final = 2_000
"""A result of at most so many characters is unfolded."""

_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY: Final = f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'"

_FENCED: Final = re.compile(
    r"^(?P<fence>`{3,}|~{3,})[^`\n]*\n(?P<code>.*?)(?:^(?P=fence)[`~]*[ \t]*$\n?|\Z)", re.MULTILINE | re.DOTALL
)
_INLINE: Final = re.compile(
    r"(?P<link>(?:https?://|mailto:)[A-Za-z0-9\-._~:/?#@!$&()*+,;=%]*[A-Za-z0-9\-_~/#@$&+=%])|"
    r"`(?P<code>[^`\n]+)`|\*\*(?P<strong>[^*\n]+)\*\*|^(?P<heading>#{1,6} [^\n]*)$",
    re.MULTILINE,
)


def html_page(storage: BlockingEventSessionStorage, session_id: str, at: int | str | At = HEAD) -> Iterator[str]:
    """The page of the session as it was at *at*, in pieces: only an exchange at a time is held. UTF-8 can encode them.

    Raises as `storage.state_at`, before the first piece.
    """
    for item in story(storage, session_id, at):
        yield "".join(_item(item))
    yield "</main>\n</body>\n</html>\n"


def _item(item: Item) -> Iterator[str]:
    match item:
        case Heading():
            yield from _heading(item)
        case TurnBegan():
            yield f'<h2 id="turn-{item.number}">Turn {item.number} '
            facts = [f"versions {item.first}\u2013{item.last}", when(item.began_at), used(item.usage)]
            yield f'<span class="facts">{_text(" · ".join(filter(None, facts)))}</span></h2>\n'
        case Said():
            yield from _said(item)
        case Note():
            yield f'<p class="note">{_text(item.text)}</p>\n'
        case _:
            assert_never(item)


def _heading(head: Heading) -> Iterator[str]:
    title = one_line(head.title) or head.session_id
    yield (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="referrer" content="no-referrer">\n<meta name="robots" content="noindex">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f'<header>\n<h1 dir="auto">{_text(title)}</h1>\n<dl>\n'
    )
    for name, value in _facts(head):
        yield f"<dt>{name}</dt><dd>{value}</dd>\n"
    yield "</dl>\n"
    if head.system:
        yield '<details class="system"><summary>System prompt</summary>\n'
        yield from _parts(head.system)
        yield "</details>\n"
    if len(head.turns) > 1:
        links = " ".join(f'<a href="#turn-{number}">{number}</a>' for number in head.turns)
        yield f'<nav aria-label="Turns">Turns {links}</nav>\n'
    yield "</header>\n<main>\n"


def _facts(head: Heading) -> Iterator[tuple[str, str]]:
    yield "Session", f"<code>{_text(head.session_id)}</code> at version {head.version}, {_text(head.status)}"
    yield "Digest", f"<code>{head.digest.hex() or 'none'}</code> (commits to everything up to this version)"
    yield "Created", f"{_text(when(head.created_at))}, last event {_text(when(head.updated_at))}"
    if head.parent:
        yield "Forked from", _fork(head.parent)
    if head.forks:
        yield "Forks", ", ".join(map(_fork, head.forks))
    if head.model:
        yield "Model", _text(head.model)
    yield "Messages", f"{head.messages:,}, turns: {len(head.turns):,}"
    if head.usage:
        yield "Usage", _text(used(head.usage))
    if head.parent and head.usage:
        yield "Since the fork", _text(used(head.own_usage) or "nothing")
    if head.tools:
        yield "Tools", _text(", ".join(head.tools))


def _fork(fork: ForkLine) -> str:
    return f"<code>{_text(fork.session_id)}@{fork.at}</code>"


def _said(said: Said) -> Iterator[str]:
    role = said.role if said.role in {"user", "assistant", "system"} else "other"
    name = "Summary" if said.summary else one_line(said.role).capitalize() or "Unreadable"
    stop = "" if said.stop_reason in {"", "end_turn", "tool_use"} else f"stopped: {said.stop_reason}"
    facts = " · ".join(filter(None, [said.model, when(said.at) if said.at else "", stop]))
    place = f' <a class="at" href="#v{said.version}">@{said.version}</a>' if said.version else ""
    anchor = f' id="v{said.version}"' if said.version else ""
    yield f'<article class="{role}"{anchor}>\n<h3>{_text(name)} <span class="facts">{_text(facts)}</span>{place}</h3>\n'
    yield from _parts(said.parts)
    yield "</article>\n"


def _parts(parts: tuple[Part, ...]) -> Iterator[str]:
    for part in parts:
        match part:
            case Text(text):
                yield _block(_prose(text)) + "\n"
            case Thinking(text, redacted):
                shown = _prose(text) if text else "It can only be read by the API." if redacted else "Empty."
                yield f'<details class="thinking"><summary>Thinking</summary>{_block(shown)}</details>\n'
            case Call():
                yield from _call(part)
            case Result():
                yield f'<div class="call"><p class="name">Result without its call <code>{_text(part.call)}</code></p>\n'
                yield from _result(part)
                yield "</div>\n"
            case Media(label):
                yield f'<p class="media">[{_text(label)}]</p>\n'
            case Other(kind, text):
                yield from _folded(_text(kind) or "Block", text, "other")
            case _:
                assert_never(part)


def _call(call: Call) -> Iterator[str]:
    yield f'<div class="call"><p class="name">Tool <code>{_text(call.name)}</code> '
    yield f'<span class="facts">{_text(call.call)}</span></p>\n'
    if call.fields:
        yield "<dl>\n"
        for name, value in call.fields:
            yield f'<dt>{_text(name)}</dt><dd><pre dir="auto">{_text(value)}</pre></dd>\n'
        yield "</dl>\n"
    if call.result:
        yield from _result(call.result)
    else:
        yield '<p class="note">No result.</p>\n'
    yield "</div>\n"


def _result(result: Result) -> Iterator[str]:
    name, style = ("Error", "result error") if result.is_error else ("Result", "result")
    for part in result.parts:
        match part:
            case Text(text):
                yield from _folded(name, text, style)
            case Media(label):
                yield f'<p class="media">[{_text(label)}]</p>\n'
            case Other(kind, text):
                yield from _folded(_text(kind) or name, text, style)
            case _:
                assert_never(part)
    if not result.parts:
        yield f'<p class="note">{name}: empty.</p>\n'


def _folded(name: str, text: str, style: str) -> Iterator[str]:
    is_open = " open" if len(text) <= OPEN_CHARACTERS else ""
    size = f"{len(text):,} character{'s' * (len(text) != 1)}"
    yield f'<details class="{style}"{is_open}><summary>{name} <span class="facts">{size}</span></summary>'
    yield f'<pre dir="auto">{_text(text)}</pre></details>\n'


def _block(shown: str) -> str:
    return f'<div class="text" dir="auto">{shown}</div>'


def _prose(text: str) -> str:
    """Text with code, strong words, headings and links as Markdown has them; the rest as it stands."""
    parts, end = [], 0
    text = text.replace("\r\n", "\n")
    for found in _FENCED.finditer(text):
        parts += [_inline(text[end : found.start()]), f'<pre dir="auto">{_text(found["code"])}</pre>']
        end = found.end()
    return "".join([*parts, _inline(text[end:])])


def _inline(text: str) -> str:
    parts, end = [], 0
    for found in _INLINE.finditer(text):
        parts.append(_text(text[end : found.start()]))
        inner = _text(found[found.lastgroup or 0])
        match found.lastgroup:
            case "link":
                parts.append(f'<a rel="noreferrer noopener nofollow" href="{inner}">{inner}</a>')
            case "code":
                parts.append(f"<code>{inner}</code>")
            case _:
                parts.append(f"<strong>{inner}</strong>")
        end = found.end()
    return "".join([*parts, _text(text[end:])])


def _text(text: str) -> str:
    """The only way of content into the page."""
    return visible(html.escape(text, quote=True), _marked)


def _marked(shown: str) -> str:
    return f'<span class="hidden-character">{shown}</span>'
