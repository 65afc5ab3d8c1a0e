"""Content types, as far as they decide what the SDK makes of a body. Pure.

They are recorded only where a body does not show it: most bodies of JSON say that they are.
"""

from __future__ import annotations

from typing import Final

JSON: Final = "application/json"
OTHER: Final = "text/plain"


def is_json(kind: str) -> bool:
    """Whether a body of this content type is parsed."""
    return kind.partition(";")[0].strip().lower().endswith("json")


def likely(body: bytes) -> str:
    """The content type that *body* most likely has: the API's, or that of a proxy's page."""
    return JSON if body.lstrip()[:1] in {b"{", b"["} else OTHER
