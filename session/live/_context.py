"""What the parts of an open session share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from session.live._view import RequestView

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

    from session.live._journal import Journal
    from session.live._settings import Settings
    from session.messages import Message
    from session.pricing import PriceTable
    from session.tools import Toolbox


@dataclass(slots=True, eq=False)
class Context:
    """Changes as the session goes on. *own_requests* were sent from here; *said* is the newest message of `send`;
    *unchecked*: the history that was loaded is still to be looked through for repairs.
    """

    journal: Journal
    settings: Settings
    toolbox: Toolbox
    prices: PriceTable
    view: RequestView = field(default_factory=RequestView)
    own_requests: set[str] = field(default_factory=set)
    said: Message | None = None
    unchecked: bool = True
    _client: AsyncAnthropic | None = None

    def client(self) -> AsyncAnthropic:
        """The client that was given, or one of our own, made now: that is when anthropic is imported."""
        if self.settings.client is not None:
            given: AsyncAnthropic = self.settings.client
            return given
        if self._client is None:
            import anthropic  # noqa: PLC0415 - takes longer to import than everything else together

            self._client = anthropic.AsyncAnthropic()
        return self._client

    async def aclose(self) -> None:
        """Close the tools, and the client if it is our own."""
        await self.toolbox.aclose()
        if self._client is not None:
            own, self._client = self._client, None
            await own.close()
