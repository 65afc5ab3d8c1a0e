"""Full-text search over all sessions of a store: `SearchIndex(storage)`, then `update()` and `search("words")`."""

from session.search._words import Fragment
from session.search.index import ROLES, Filters, Hit, Hits, SearchIndex, Updated

__all__ = ["ROLES", "Filters", "Fragment", "Hit", "Hits", "SearchIndex", "Updated"]
