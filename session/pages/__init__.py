"""Sessions to read: `html_page(storage, id)` is one page that needs nothing else, `markdown_page` the same as Markdown.

Both give pieces of text, to be written one after the other in UTF-8: sessions of any length take little memory.
"""

from session.pages.html import html_page
from session.pages.markdown import markdown_page

__all__ = ["html_page", "markdown_page"]
