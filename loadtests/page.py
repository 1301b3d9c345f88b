"""report.html: one file that needs nothing else, in light and dark."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from loadtests.answers import ABANDONED, ANSWERED, REFUSED
from loadtests.charts import Mark, Point, Series, chart, linear_axis, logarithmic_axis
from loadtests.generator import Exchange
from loadtests.health import PATHS
from loadtests.observation import Observation
from loadtests.verdict import Verdict

TIME_STEPS = 90  # intervals in the charts over time
LOWEST_LATENCY_SECONDS = 0.001

STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1c2430;--soft:#5b6675;--grid:#e3e7ec;--card:#f6f7f9;
--a:#0b65c2;--b:#c2410c;--c:#6d28d9;--d:#b91c1c;--good:#0a6b3d;--bad:#b3161b}
@media(prefers-color-scheme:dark){:root{--paper:#12161c;--ink:#e6eaf0;--soft:#9aa6b5;--grid:#2a323d;--card:#1a2029;
--a:#62aeff;--b:#ffa057;--c:#b79bff;--d:#ff7b7b;--good:#5fd39a;--bad:#ff8a8a}}
body{margin:0 auto;max-width:1120px;padding:24px;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,sans-serif}
h1{font-size:20px;margin:0 0 4px}h2{font-size:17px;margin:20px 0 4px}
p{margin:4px 0}small,figcaption .legend{color:var(--soft)}
.verdict{border-left:6px solid;padding:12px 16px;margin:16px 0;background:var(--card);font-weight:600;font-size:17px}
.good{border-color:var(--good);color:var(--good)}.bad{border-color:var(--bad);color:var(--bad)}
.doubt{border-left:6px solid var(--b);padding:8px 16px;background:var(--card)}
.side{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(480px,100%),1fr));gap:20px;margin-top:20px}
@media(min-width:1060px){.side table{grid-row:span 3}}
figure{margin:0}figcaption{font-weight:600;display:flex;flex-wrap:wrap;justify-content:space-between;gap:0 16px}
figcaption .legend{font-weight:400}.key{margin-left:14px}.key::before{content:"";display:inline-block;width:14px;
height:3px;vertical-align:middle;margin-right:6px;background:currentColor}
.key.a{color:var(--a)}.key.b{color:var(--b)}.key.c{color:var(--c)}.key.d{color:var(--d)}
svg{width:100%;height:auto}svg text{font-size:12px;fill:var(--soft)}svg .grid{stroke:var(--grid)}
svg .line{fill:none;stroke-width:2;stroke-linejoin:round}
svg .a{stroke:var(--a)}svg .b{stroke:var(--b)}svg .c{stroke:var(--c)}svg .d{stroke:var(--d)}
svg path.mark{stroke:var(--bad);stroke-dasharray:6 4;stroke-width:1.5}svg text.mark{fill:var(--bad)}
table{align-self:start;border-collapse:collapse;width:100%}td,th{
text-align:left;padding:4px 8px 4px 0;border-bottom:1px solid var(--grid);
vertical-align:top}
td:first-child{color:var(--soft);white-space:nowrap}td{font-variant-numeric:tabular-nums}
a{color:var(--a)}
"""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of a report; the first row of a table with a head names its columns."""

    rows: Sequence[Sequence[str]]
    has_head: bool = False


def page(title: str, observation: Observation, verdict: Verdict, tables: Sequence[Table]) -> str:
    """The whole report of a run as HTML, the verdict on top."""
    first, *others = tables
    charts = [
        _latency_over_time(observation),
        _latency_distribution(observation),
        _throughput(observation),
        _retry_after(observation),
        _health(observation),
        _memory(observation),
    ]
    doubts = "".join(f'<p class="doubt">{escape(doubt)}</p>' for doubt in verdict.doubts)
    faults = Table([(f"{number} x", fault) for fault, number in list(observation.faults.items())[:20]])
    return document(
        f"{title}: {'target met' if verdict.passed else 'target missed'}",
        f"<h1>{escape(title)}</h1><small>{escape(observation.url)} · {escape(observation.started_at)} · "
        f'{escape(observation.machine)}</small><p class="verdict {"good" if verdict.passed else "bad"}">'
        f"{escape(verdict.sentence)}</p>{doubts}{''.join(table_element(table) for table in others)}"
        f'<div class="side">{table_element(first)}{"".join(charts)}</div>{table_element(faults)}'
        "<p><small>Latency counts from the moment a request was due by the schedule until its whole answer was there; "
        "the schedule does not wait for answers (open loop).</small></p>",
    )


def document(title: str, body: str) -> str:
    """A page of its own; `body` is markup."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>{body}</body></html>\n"
    )


def table_element(table: Table) -> str:
    """An HTML table, nothing when it has no rows; what stands in it is text."""
    if not table.rows:
        return ""
    lines = []
    for number, row in enumerate(table.rows):
        cell = "th" if table.has_head and number == 0 else "td"
        lines.append("<tr>" + "".join(f"<{cell}>{escape(text)}</{cell}>" for text in row) + "</tr>")
    return f"<table>{''.join(lines)}</table>"


def _step_seconds(observation: Observation) -> float:
    """Length of the intervals of the charts over time, 1 s at least."""
    return max(1.0, observation.duration_seconds / TIME_STEPS)


def _latency_over_time(observation: Observation) -> str:
    step, target = _step_seconds(observation), observation.target_seconds
    intervals: defaultdict[int, list[float]] = defaultdict(list)
    for exchange in observation.exchanges:
        if exchange.kind == ANSWERED:
            intervals[int(exchange.due_seconds / step)].append(exchange.latency_seconds)
    ranks = {"median": ("a", 50), "p99": ("c", 99), "slowest": ("b", 100)}
    series = [
        Series(name, style, [((k + 0.5) * step, float(np.percentile(v, rank))) for k, v in sorted(intervals.items())])
        for name, (style, rank) in ranks.items()
    ]
    lowest = min((min(values) for values in intervals.values()), default=LOWEST_LATENCY_SECONDS)
    y = logarithmic_axis(
        "seconds", max(lowest, LOWEST_LATENCY_SECONDS), max(target * 2, observation.summary.max_seconds)
    )
    x = linear_axis("seconds since the start (when the request was due)", observation.duration_seconds, round_up=False)
    return chart("Latency over time", x, y, series, [Mark(target, f"target {target:g} s")])


def _latency_distribution(observation: Observation) -> str:
    target = observation.target_seconds
    series = [
        Series(kind, style, _cumulative([e.latency_seconds for e in observation.exchanges if e.kind == kind]))
        for kind, style in ((ANSWERED, "a"), (REFUSED, "b"))
        if any(exchange.kind == kind for exchange in observation.exchanges)
    ]
    fastest = min((line.points[0][0] for line in series), default=LOWEST_LATENCY_SECONDS)
    slowest = max((line.points[-1][0] for line in series), default=target)
    x = logarithmic_axis("latency in seconds", max(fastest, LOWEST_LATENCY_SECONDS), max(target * 2, slowest))
    y = linear_axis("% answered within", 100.0)
    return chart("Latency distribution", x, y, series, [Mark(target, f"target {target:g} s", upright=True)])


def _cumulative(latencies_seconds: Sequence[float]) -> list[Point]:
    """(latency in seconds, percent not slower) at every half percent and at the last ten requests."""
    ordered = np.sort(latencies_seconds)
    ranks = np.unique(
        np.r_[np.linspace(0, len(ordered) - 1, 200).astype(int), range(max(0, len(ordered) - 10), len(ordered))]
    )
    return [(float(ordered[rank]), 100.0 * (rank + 1) / len(ordered)) for rank in ranks.astype(int)]


def _throughput(observation: Observation) -> str:
    step = _step_seconds(observation)
    end_seconds = max((e.finished_seconds for e in observation.exchanges), default=observation.duration_seconds)
    steps = math.ceil(max(end_seconds, observation.duration_seconds) / step)

    def per_second(times: list[float]) -> list[Point]:
        counts = np.bincount((np.array(times, dtype=np.float64) / step).astype(int), minlength=steps)[:steps] / step
        return [(index * step, float(count)) for index, count in enumerate([*counts, counts[-1]])]

    finished: dict[str, list[Exchange]] = {
        "answered": [e for e in observation.exchanges if e.kind == ANSWERED],
        "refused": [e for e in observation.exchanges if e.kind == REFUSED],
        "errors": [e for e in observation.exchanges if e.kind not in (ANSWERED, REFUSED, ABANDONED)],
    }
    series = [Series("offered", "c", per_second([e.due_seconds for e in observation.exchanges]), stepped=True)] + [
        Series(name, style, per_second([e.finished_seconds for e in exchanges]), stepped=True)
        for (name, exchanges), style in zip(finished.items(), "abd", strict=True)
        if exchanges
    ]
    highest = max((height for line in series for _, height in line.points), default=1.0)
    x = linear_axis("seconds since the start", steps * step, round_up=False)
    return chart("Throughput over time", x, linear_axis("requests/s", highest), series)


def _retry_after(observation: Observation) -> str:
    """What refusals asked to wait: median and longest of each interval."""
    step = _step_seconds(observation)
    intervals: defaultdict[int, list[float]] = defaultdict(list)
    for exchange in observation.exchanges:
        if exchange.retry_after_seconds is not None:
            intervals[int(exchange.due_seconds / step)].append(exchange.retry_after_seconds)
    if not intervals:
        return ""
    series = [
        Series(name, style, [((k + 0.5) * step, float(np.percentile(v, rank))) for k, v in sorted(intervals.items())])
        for name, style, rank in (("median", "a", 50), ("longest", "b", 100))
    ]
    highest = max(height for line in series for _, height in line.points)
    x = linear_axis("seconds since the start", observation.duration_seconds, round_up=False)
    return chart("Retry-After of refusals", x, linear_axis("seconds", highest), series)


def _health(observation: Observation) -> str:
    """The slowest probe of each interval."""
    if not observation.health:
        return ""
    step = _step_seconds(observation)
    series = []
    for path, style in zip(PATHS, "ac", strict=True):
        slowest: defaultdict[int, float] = defaultdict(float)
        for probe in observation.health:
            if probe.path == path:
                at = int(probe.due_seconds / step)
                slowest[at] = max(slowest[at], probe.latency_seconds * 1000)
        series.append(Series(path, style, [((k + 0.5) * step, value) for k, value in sorted(slowest.items())]))
    highest = max(height for line in series for _, height in line.points)
    x = linear_axis("seconds since the start", observation.health[-1].due_seconds, round_up=False)
    return chart("Slowest health probe", x, linear_axis("milliseconds", highest), series)


def _memory(observation: Observation) -> str:
    if not observation.server.memory:
        return ""
    points = [(seconds, memory_bytes / 2**20) for seconds, memory_bytes in observation.server.memory]
    x = linear_axis("seconds since the start", max(points[-1][0], 1.0), round_up=False)
    y = linear_axis("MiB", max(height for _, height in points))
    return chart("Resident memory of the service", x, y, [Series("resident", "a", points)])
