"""Findings as Markdown, for people and for the next aggregator. No I/O.

The Markdown is the format in which findings travel up the tree, so it is read back by `parse`.
Each quote is a block quote of two lines, the text and its citation:

    In `asyncio.tasks.Task.cancel` (function docstring):

    > Request that this task cancel itself.
    > — `asyncio/tasks.py:199`

How to check a quote: take the cited lines (1-based, inclusive) of the file below the corpus root,
strip from each its indentation and a leading run of `#` with an optional `:` or `!` (comment
markers), join the lines and make every run of whitespace one blank. The text of the quote is a
substring of the result (`cited_text` does this). Nothing else is changed or left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from orchestrator_svc.agents.corpus.clause import as_heading
from orchestrator_svc.agents.corpus.findings import (
    ClauseFindings,
    Findings,
    Passage,
    all_quotes,
    fit,
    merge,
)
from orchestrator_svc.agents.corpus.messages import Quote
from orchestrator_svc.agents.corpus.section import Kind

SUMMARY_QUOTES = 6  #: quotes in the summary of a report
NAMED = 0.7  #: worth of a topic word in the name of a section, when the summary is chosen
FIRST = 0.15  #: worth of being in the facet that answers the clause most directly
MAX_SUMMARY_CHARS = 600  #: length of the one-line summary of an output

_ORIGIN = {
    Kind.MODULE: "module docstring",
    Kind.CLASS: "class docstring",
    Kind.FUNCTION: "function docstring",
    Kind.COMMENT: "comment",
    Kind.HEADING: "section",
    Kind.TEXT: "text",
}
_KINDS = {origin: kind for kind, origin in _ORIGIN.items()}
_PLACE = re.compile(r"^In `(?P<name>.*)` \((?P<origin>[a-z ]+)\):$")
_CITATION = re.compile(r"^> — `(?P<path>.+):(?P<start>\d+)(?:-(?P<end>\d+))?`$")
_COMMENT_MARK = re.compile(r"^#+[:!]?")


def cited_text(lines: Sequence[str]) -> str:
    """Return the text against which a quote of `lines` is to be checked; see the module."""
    return " ".join(" ".join(_COMMENT_MARK.sub("", line.strip()) for line in lines).split())


def citation(quote: Quote) -> str:
    """Return `path:line` or `path:first-last`."""
    if quote.start_line == quote.end_line:
        return f"{quote.path}:{quote.start_line}"
    return f"{quote.path}:{quote.start_line}-{quote.end_line}"


def gap_text(goal: str) -> str:
    """Return the sentence that says that the corpus holds nothing for `goal`."""
    return f"No evidence found for “{goal}”."


def failure_text(goal: str) -> str:
    """Return the sentence that says that `goal` failed for another reason than missing evidence."""
    return f"Not answered, because its research failed: “{goal}”."


def render_findings(findings: Findings) -> str:
    """Return `findings` as Markdown with a heading per clause and per facet."""
    return _joined(block for clause in findings for block in _clause_blocks(clause, 2))


def render_report(question: str, findings: Findings) -> str:
    """Return the report that answers `question`: summary, clauses, gaps, sources."""
    title = as_heading(" ".join(question.split()))
    blocks = [f"# {title}", "## Summary"]
    answered = [clause for clause in findings if clause.passages]
    several = len(findings) > 1
    for clause in answered:
        room = max(1, SUMMARY_QUOTES // len(answered)) if len(answered) > 1 else 4
        leads = _leads(clause)[: min(room, 3)]
        if several:
            blocks.append(f"**{clause.heading}**")
        blocks.append("\n".join(f"- {quote.text} (`{citation(quote)}`)" for quote in leads))
    gaps = [gap for clause in findings for gap in clause.gaps]
    if gaps:
        blocks.append("\n".join(f"- {gap}" for gap in gaps))
    for number, clause in enumerate(answered, 1):
        if several:
            blocks.append(f"## {number}. {clause.heading}")
            blocks += _passage_blocks(clause, 3)
        else:
            blocks += _passage_blocks(clause, 2)
    if gaps:
        blocks.append("## What the corpus does not answer")
        blocks.append("\n".join(f"- {gap}" for gap in gaps))
    blocks.append("## Sources")
    blocks.append("\n".join(_sources(findings)))
    return _joined(blocks)


def summarise(findings: Findings) -> str:
    """Return one or two lines on `findings` for `Output.summary`."""
    quotes = all_quotes(findings)
    files = len({quote.path for quote in quotes})
    plural = "quote" if len(quotes) == 1 else "quotes"
    lead = f"{quotes[0].text} " if quotes else ""
    text = f"{lead}[{len(quotes)} {plural} from {files} file{'s' * (files != 1)}]"
    return text if len(text) <= MAX_SUMMARY_CHARS else text[: MAX_SUMMARY_CHARS - 1] + "…"


def parse(markdown: str) -> Findings:
    """Return the findings that `render_findings` rendered; raise ValueError for other text."""
    parts: list[Findings] = []
    clause = facet = ""
    place: re.Match[str] | None = None
    text: str | None = None
    for line in markdown.split("\n"):
        if not line:
            continue
        if line.startswith("## "):
            clause, facet = line[3:], ""
        elif line.startswith("### "):
            facet = line[4:]
        elif clause and line.startswith("*") and line.endswith("*"):
            parts.append((ClauseFindings(clause, gaps=(line[1:-1],)),))
        elif text is not None and place and (cite := _CITATION.match(line)):
            quote = Quote(
                text=text,
                path=cite["path"],
                start_line=int(cite["start"]),
                end_line=int(cite["end"] or cite["start"]),
                name=place["name"],
                kind=_KINDS[place["origin"]],
            )
            parts.append((ClauseFindings(clause, (Passage(facet, (quote,)),)),))
            text = None
        elif clause and facet and line.startswith("> ") and place and text is None:
            text = line[2:]
        elif (found := _PLACE.match(line)) and found["origin"] in _KINDS and text is None:
            place = found
        else:
            raise ValueError(f"not a line of findings: {line[:60]!r}")
    if not parts or text is not None:
        raise ValueError("no complete findings")
    return merge(parts)


def _leads(clause: ClauseFindings) -> list[Quote]:
    """Return the first quote of each passage, the ones that say most of the clause first."""
    scored = [
        (fit(clause.heading, quote, named=NAMED) + (0.0 if number else FIRST), quote)
        for number, quote in enumerate(passage.quotes[0] for passage in clause.passages)
    ]
    return [quote for _, quote in sorted(scored, key=lambda item: -item[0])]


def _clause_blocks(clause: ClauseFindings, level: int) -> list[str]:
    gaps = [f"*{gap}*" for gap in clause.gaps]
    return [f"{'#' * level} {clause.heading}", *_passage_blocks(clause, level + 1), *gaps]


def _passage_blocks(clause: ClauseFindings, level: int) -> list[str]:
    blocks: list[str] = []
    for passage in clause.passages:
        blocks.append(f"{'#' * level} {passage.heading}")
        before: tuple[str, Kind] | None = None
        for quote in passage.quotes:
            if (quote.name, quote.kind) != before:
                blocks.append(f"In `{quote.name}` ({_ORIGIN[quote.kind]}):")
            before = (quote.name, quote.kind)
            blocks.append(f"> {quote.text}\n> — `{citation(quote)}`")
    return blocks


def _sources(findings: Findings) -> list[str]:
    places: dict[str, set[str]] = {}
    for quote in all_quotes(findings):
        places.setdefault(quote.path, set()).add(quote.name)
    return [
        f"- `{path}`: {', '.join(f'`{name}`' for name in sorted(places[path]))}"
        for path in sorted(places)
    ]


def _joined(blocks: Iterable[str]) -> str:
    return "\n\n".join(blocks) + "\n"
