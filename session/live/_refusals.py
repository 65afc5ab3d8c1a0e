"""What the API says when it refuses a request, and whether the newest message may be why. Pure.

In doubt it may be: a message that is kept and is refused again and again would brick its session, one that is set aside
is still in the log. It is not where the API's text names another part of the request, or the account:

    max_tokens: 99999 > 64000, which is the maximum allowed number of output tokens for ...
    tools.0.custom.input_schema: Field required
    Your credit balance is too low to access the Anthropic API. ...

The texts are those that public reports quote (anthropics/claude-code#66314, #59696; docker/docker-agent#569) and those
of `session.testing.rules`.
"""

from __future__ import annotations

import re
from typing import Final

from session import jsontext

_REFUSED: Final = frozenset({400, 413, 422})
"""What the API answers when it is the request that is wrong."""
_TOO_LARGE: Final = 413

_OTHER_KINDS: Final = frozenset({"authentication_error", "billing_error", "not_found_error", "permission_error"})
_TOO_LONG: Final = re.compile(r"too long|exceeds? (?:the )?context", re.IGNORECASE)
_MESSAGES: Final = re.compile(r"\bmessages\b")

# Names that stand for a part of the request wherever they are read, and those that are words of English, too.
_NAMES: Final = (
    "budget_tokens|container|context_management|inference_geo|max_tokens|mcp_servers|output_config|output_format|"
    "service_tier|stop_sequences|temperature|tool_choice|top_k|top_p"
)
_WORDS: Final = "betas|cache_control|metadata|model|speed|stream|system|thinking|tools"
_OTHER_PART_FIRST: Final = re.compile(rf"`?(?:{_NAMES}|{_WORDS})(?:[.:]|`)")
_OTHER_PART: Final = re.compile(rf"\b(?:{_NAMES})\b|`(?:{_WORDS})[.`]")
_ACCOUNT: Final = re.compile(
    r"credit balance|billing|usage limits|organization has been|api.key|authenticat|anthropic-(?:beta|version)",
    re.IGNORECASE,
)


def may_be_the_message(status: int, error: bytes) -> bool:
    """Whether the newest message may be why the API answered *status* with the body *error*."""
    if status not in _REFUSED or _kind_of(error) in _OTHER_KINDS:
        return False
    text = text_of(error)
    if status == _TOO_LARGE or _TOO_LONG.search(text):
        return True
    if _OTHER_PART_FIRST.match(text):
        return False
    return bool(_MESSAGES.search(text)) or not (_OTHER_PART.search(text) or _ACCOUNT.search(text))


def text_of(error: bytes) -> str:
    """What an error says, as the API puts it or as it stands."""
    told = _member(error, "message")
    return told if isinstance(told, str) else error.decode("utf-8", "replace")


def _kind_of(error: bytes) -> str:
    return str(_member(error, "type"))


def _member(error: bytes, name: str) -> object:
    value = jsontext.parse_or_show(error)
    inner = value.get("error") if isinstance(value, dict) else None
    return inner.get(name) if isinstance(inner, dict) else None
