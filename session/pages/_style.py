"""The style of a page: light or dark as the reader has it, and for paper."""

from __future__ import annotations

from typing import Final

STYLE: Final = """
:root { color-scheme: light dark; --back: #fbfaf8; --ink: #1f1e1c; --soft: #6b6862; --line: #dedad2; --card: #fff;
  --user: #eef3fb; --mark: #3b6fb6; --error: #b3261e; --code: #f3f1ec; }
@media (prefers-color-scheme: dark) { :root { --back: #191917; --ink: #e8e6e1; --soft: #a09c93; --line: #38362f;
  --card: #21201d; --user: #1f2836; --mark: #8ab4f0; --error: #f2837b; --code: #2a2925; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1rem 4rem; max-width: 54rem; background: var(--back); color: var(--ink);
  font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2.5rem 0 .75rem; padding-top: 1rem; border-top: 1px solid var(--line); }
h3 { font-size: .9rem; margin: 0 0 .5rem; }
header dl, .call dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .15rem 1rem;
  margin: 0 0 1rem; }
dt { color: var(--soft); font-size: .9rem; overflow-wrap: anywhere; }
dd { margin: 0; overflow-wrap: anywhere; font-size: .9rem; }
nav { display: flex; flex-wrap: wrap; gap: .1rem .6rem; font-size: .85rem; color: var(--soft); }
a { color: var(--mark); overflow-wrap: anywhere; }
.facts { color: var(--soft); font-size: .8rem; font-weight: normal; overflow-wrap: anywhere; }
.at { color: var(--soft); font-size: .8rem; font-weight: normal; text-decoration: none; }
article { margin: 0 0 1rem; padding: .8rem 1rem; background: var(--card); border: 1px solid var(--line);
  border-radius: .6rem; }
article.user { background: var(--user); }
article:target { outline: 2px solid var(--mark); }
.text { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0 0 .5rem; unicode-bidi: isolate; }
pre, code { font: .85rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
code { background: var(--code); border-radius: .25rem; padding: .05rem .3rem; overflow-wrap: anywhere; }
pre { margin: 0; padding: .5rem .7rem; background: var(--code); border-radius: .4rem; white-space: pre-wrap;
  overflow-wrap: anywhere; max-height: 40rem; overflow: auto; tab-size: 4; }
.call { border-left: 3px solid var(--mark); padding-left: .8rem; margin: .6rem 0; }
.call p { margin: 0 0 .4rem; }
.call dl { margin: 0 0 .5rem; }
.error > summary { color: var(--error); font-weight: 600; }
summary { cursor: pointer; color: var(--soft); font-size: .9rem; }
details { margin: 0 0 .5rem; }
.thinking > .text { color: var(--soft); border-left: 3px solid var(--line); padding-left: .8rem; margin-top: .4rem; }
.note, .media { color: var(--soft); font-size: .9rem; }
.hidden-character { color: var(--error); font-size: .85em; unicode-bidi: isolate; }
@media print { :root { color-scheme: light; --back: #fff; --ink: #000; --soft: #444; --line: #bbb; --card: #fff;
  --user: #fff; --mark: #000; --error: #000; --code: #fff; }
  body { max-width: none; padding: 0; font-size: 10pt; } nav { display: none; } pre { max-height: none; }
  article { break-inside: auto; } h2, h3 { break-after: avoid; }
  details::details-content { content-visibility: visible; display: block; } }
"""
