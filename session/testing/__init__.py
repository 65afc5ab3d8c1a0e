"""What programs built on `session` test themselves with: the rules of the Messages API as an independent judge."""

from __future__ import annotations

from session.testing.rules import ApiError, check_request
from session.testing.thinking import ThinkingLedger, prefix_digest

__all__ = ["ApiError", "ThinkingLedger", "check_request", "prefix_digest"]
