"""Conversations that come from elsewhere and go elsewhere.

Four formats, each of which `import_path` recognizes and `export_*` writes:

- **events**: JSON lines, event by event, without loss: imported again, they have equal digests (`event_lines`).
- **messages**: one JSON document, a request of the Messages API: model, system, tools, messages (`conversations`).
- **lines**: JSON lines, one conversation per line.
- **folder**: `<id>.json` files in the format of the TypeScript session SDKs (`folder`).

More importers have the form of `Importer`: they yield an `Imported` or a `Skipped` for everything they find, so that
whoever runs them can say what was taken in and what was not, and why. An import that was interrupted is simply run
again: nothing is taken in twice, and nothing is overwritten.
"""

from session.transfer.event_lines import export_events
from session.transfer.exporting import export_folder, export_line, export_messages
from session.transfer.importing import IMPORTERS, FormatError, Importer, Target, import_path
from session.transfer.report import Imported, Outcome, Reason, RefusedError, Report, Skipped
from session.transfer.source import MAX_LINE_BYTES, Source

__all__ = [
    "IMPORTERS",
    "MAX_LINE_BYTES",
    "FormatError",
    "Imported",
    "Importer",
    "Outcome",
    "Reason",
    "RefusedError",
    "Report",
    "Skipped",
    "Source",
    "Target",
    "export_events",
    "export_folder",
    "export_line",
    "export_messages",
    "import_path",
]
