"""What is kept of an exception: names, never texts, which can hold a header or an address with a password."""

from __future__ import annotations

from session import jsontext


def named(error: BaseException) -> bytes:
    """A JSON object with the name of *error*, and name and number of what caused it."""
    found: dict[str, object] = {"type": type(error).__name__}
    cause = error.__cause__ or error.__context__
    if cause is not None:
        found["cause"] = type(cause).__name__
    number = _number(error)
    if number is not None:
        found["errno"] = number
    return jsontext.encode(found)


def _number(error: BaseException) -> int | None:
    """The operating system's, somewhere down the causes."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        if isinstance(current, OSError) and isinstance(current.errno, int):
            return current.errno
        current = current.__cause__ or current.__context__
    return None
