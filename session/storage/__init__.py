"""Where sessions are kept: the `SessionStorage` protocol, and the five kinds of it."""

from session.storage._listing import SummaryPage
from session.storage._log import Appended, WrongVersionError
from session.storage.base import SessionStorage, check_session_id, new_session_id
from session.storage.blocking import BlockingEventSessionStorage
from session.storage.document import from_document, to_document
from session.storage.events import EventSessionStorage, Verified
from session.storage.file import FileSessionStorage
from session.storage.kinds import StorageKind, create_session_storage, get_default_storage, set_default_storage
from session.storage.memory import MemorySessionStorage
from session.storage.redis import RedisSessionStorage
from session.storage.sqlite import SqliteSessionStorage

__all__ = [
    "Appended",
    "BlockingEventSessionStorage",
    "EventSessionStorage",
    "FileSessionStorage",
    "MemorySessionStorage",
    "RedisSessionStorage",
    "SessionStorage",
    "SqliteSessionStorage",
    "StorageKind",
    "SummaryPage",
    "Verified",
    "WrongVersionError",
    "check_session_id",
    "create_session_storage",
    "from_document",
    "get_default_storage",
    "new_session_id",
    "set_default_storage",
    "to_document",
]
