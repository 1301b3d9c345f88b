"""The comparison as a table for the terminal, as Markdown, as JSON and as a small page."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from loadtests.peers.figures import Judged, Round, Row, Spread, Target

FIGURES = {"answers_per_second": "answers/s", "one_client_p50_seconds": "one client's p50"}
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24 }
table { border-collapse: collapse; width: 100% } th, td { padding: .3rem .6rem; border-bottom: 1px solid #d8dee4 }
td { font-variant-numeric: tabular-nums } td + td, th + th { text-align: right } .missed { color: #b3261e }
.bar { display: block; height: .35rem; background: #8a94a0 } .ours .bar { background: #1f6feb } small { color: #59636e }
"""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that is written down."""

    started_at: str  # ISO 8601, UTC
    circumstances: Mapping[str, str]
    rows: Sequence[Row]
    judged: Sequence[Judged]
    tried: Mapping[str, Mapping[str, float]]  # answers a second of each set-up
    notes: Mapping[str, Sequence[str]]  # failures in words
    rounds: Sequence[Round]

    @property
    def met(self) -> bool:
        """Whether every target was met and nothing failed."""
        return all(judged.met for judged in self.judged) and not self.notes


def columns(report: Report) -> list[str]:
    """The head of the table."""
    ours = [name for name in ("dermserve-fp32", "dermserve-auto") if any(name in row.ratios for row in report.rows)]
    head = ["candidate", "set-up", "answers/s", "p50, several clients", "p99", "one client's p50", "refused, failed"]
    return [*head, *(f"{name} / it" for name in ours)]


def cells(report: Report, row: Row) -> list[str]:
    """One line of the table."""
    shown = [
        row.title,
        row.setting,
        spread(row.answers_per_second, 1),
        f"{spread(row.p50_seconds, 1, 1000)} ms",
        f"{spread(row.p99_seconds, 1, 1000)} ms",
        f"{spread(row.one_client_p50_seconds, 1, 1000)} ms",
        f"{row.refused}, {row.failed}",
    ]
    ours = [name.removesuffix(" / it") for name in columns(report)[len(shown) :]]
    return shown + [spread(row.ratios[name], 2) if name in row.ratios else "" for name in ours]


def spread(value: Spread, digits: int, factor: float = 1.0) -> str:
    """The median, and lowest to highest in brackets when they differ."""
    median, low, high = (f"{number * factor:.{digits}f}" for number in (value.median, value.low, value.high))
    return median if low == high else f"{median} ({low}-{high})"


def sentence(judged: Judged) -> str:
    """One target in words."""
    target = judged.target
    return (
        f"{'met   ' if judged.met else 'MISSED'} {target.ours} / {target.theirs}, {FIGURES[target.figure]}: "
        f"{spread(judged.found, 2)}, promised {promise(target)}"
    )


def promise(target: Target) -> str:
    """The target's number in words."""
    return f"at least {target.at_least:g}" if target.at_least is not None else f"at most {target.at_most:g}"


def text(report: Report) -> str:
    """For the terminal."""
    table = [columns(report), *(cells(report, row) for row in report.rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]
    return "\n".join([*lines, "", *notes(report), *map(sentence, report.judged)])


def notes(report: Report) -> list[str]:
    """Failures, one line each."""
    return [f"{name}: {note}" for name, found in report.notes.items() for note in found]


def markdown(report: Report) -> str:
    """For the documentation."""
    head = columns(report)
    lines = [f"Measured {report.started_at}. " + "; ".join(f"{k}: {v}" for k, v in report.circumstances.items()), ""]
    table = [head, ["---"] * len(head), *(cells(report, row) for row in report.rows)]
    lines += ["| " + " | ".join(line) + " |" for line in table]
    lines += ["", "| target | promised | found | met |", "|---|---|---|---|"]
    for judged in report.judged:
        target = judged.target
        what = f"{target.ours} / {target.theirs}, {FIGURES[target.figure]}"
        lines.append(
            f"| {what} | {promise(target)} | {spread(judged.found, 2)} | {'yes' if judged.met else '**no**'} |"
        )
    return "\n".join([*lines, "", *(f"- {note}" for note in notes(report))]).rstrip() + "\n"


def page(report: Report) -> str:
    """One page without scripts; the bars are answers a second."""
    most = max((row.answers_per_second.median for row in report.rows), default=1.0) or 1.0
    head = "".join(f"<th>{escape(name)}</th>" for name in columns(report))
    body = ""
    for row in report.rows:
        first, *others = map(escape, cells(report, row))
        bar = f'<span class="bar" style="width: {row.answers_per_second.median / most:.1%}"></span>'
        line = f"<td>{first}{bar}</td>" + "".join(f"<td>{cell}</td>" for cell in others)
        body += f'<tr class="{"ours" if row.name.startswith("dermserve") else "theirs"}">{line}</tr>'
    promises = "".join(
        f'<li class="{"met" if judged.met else "missed"}">{escape(sentence(judged))}</li>' for judged in report.judged
    )
    told = "".join(f"<li>{escape(name)}: {escape(value)}</li>" for name, value in report.circumstances.items())
    faults = "".join(f'<li class="missed">{escape(note)}</li>' for note in notes(report))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>dermserve side by side</title>'
        f"<style>{STYLE}</style><h1>Side by side</h1><p><small>{escape(report.started_at)}; medians of rounds, "
        f"lowest and highest in brackets</small></p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        f"<h2>Targets</h2><ul>{promises}</ul><h2>Failures</h2><ul>{faults or '<li>none</li>'}</ul>"
        f"<h2>Circumstances</h2><ul>{told}</ul></html>\n"
    )


def write(report: Report, folder: Path) -> list[Path]:
    """peers.json, peers.md and peers.html; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    plain: dict[str, Any] = dataclasses.asdict(report)
    texts = {"json": json.dumps(plain, indent=1) + "\n", "md": markdown(report), "html": page(report)}
    paths = []
    for ending, content in texts.items():
        paths.append(folder / f"peers.{ending}")
        paths[-1].write_text(content, encoding="utf-8")
    return paths
