"""report.html: one file that needs nothing else, in light and dark."""

import math
from collections import defaultdict
from collections.abc import Sequence
from html import escape

import numpy as np

from loadtests.answers import ANSWERED, REFUSED
from loadtests.charts import Mark, Point, Series, chart, linear_axis, logarithmic_axis
from loadtests.generator import Exchange
from loadtests.run import Result

TIME_STEPS = 90  # intervals in the charts over time
LOWEST_LATENCY_SECONDS = 0.001

STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1c2430;--soft:#5b6675;--grid:#e3e7ec;--card:#f6f7f9;
--a:#0b65c2;--b:#c2410c;--c:#6d28d9;--d:#b91c1c;--good:#0a6b3d;--bad:#b3161b}
@media(prefers-color-scheme:dark){:root{--paper:#12161c;--ink:#e6eaf0;--soft:#9aa6b5;--grid:#2a323d;--card:#1a2029;
--a:#62aeff;--b:#ffa057;--c:#b79bff;--d:#ff7b7b;--good:#5fd39a;--bad:#ff8a8a}}
body{margin:0 auto;max-width:1120px;padding:24px;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,sans-serif}
h1{font-size:20px;margin:0 0 4px}p{margin:4px 0}small,figcaption .legend{color:var(--soft)}
.verdict{border-left:6px solid;padding:12px 16px;margin:16px 0;background:var(--card);font-weight:600;font-size:17px}
.good{border-color:var(--good);color:var(--good)}.bad{border-color:var(--bad);color:var(--bad)}
.doubt{border-left:6px solid var(--b);padding:8px 16px;background:var(--card)}
.side{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(480px,100%),1fr));gap:20px;margin-top:20px}
@media(min-width:1060px){.side table{grid-row:span 2}}
figure{margin:0}figcaption{font-weight:600;display:flex;flex-wrap:wrap;justify-content:space-between;gap:0 16px}
figcaption .legend{font-weight:400}.key{margin-left:14px}.key::before{content:"";display:inline-block;width:14px;
height:3px;vertical-align:middle;margin-right:6px;background:currentColor}
.key.a{color:var(--a)}.key.b{color:var(--b)}.key.c{color:var(--c)}.key.d{color:var(--d)}
svg{width:100%;height:auto}svg text{font-size:12px;fill:var(--soft)}svg .grid{stroke:var(--grid)}
svg .line{fill:none;stroke-width:2;stroke-linejoin:round}
svg .a{stroke:var(--a)}svg .b{stroke:var(--b)}svg .c{stroke:var(--c)}svg .d{stroke:var(--d)}
svg path.mark{stroke:var(--bad);stroke-dasharray:6 4;stroke-width:1.5}svg text.mark{fill:var(--bad)}
table{align-self:start;border-collapse:collapse;width:100%}td{padding:4px 8px 4px 0;border-bottom:1px solid var(--grid);
vertical-align:top}
td:first-child{color:var(--soft);white-space:nowrap}td:last-child{font-variant-numeric:tabular-nums}
"""


def page(result: Result, rows: Sequence[tuple[str, str]]) -> str:
    """The whole report as HTML, the verdict on top."""
    verdict = result.verdict
    charts = [_latency_over_time(result), _latency_distribution(result), _throughput(result), _memory(result)]
    doubts = "".join(f'<p class="doubt">{escape(doubt)}</p>' for doubt in verdict.doubts)
    faults = [(f"{number} x", fault) for fault, number in list(result.faults.items())[:20]]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Load test: {'target met' if verdict.passed else 'target missed'}</title><style>{STYLE}</style></head>"
        f"<body><h1>Load test of {escape(result.url)}</h1>"
        f"<small>{escape(result.started_at)} · {escape(result.machine)}</small>"
        f'<p class="verdict {"good" if verdict.passed else "bad"}">{escape(verdict.sentence)}</p>{doubts}'
        f'<div class="side">{_table(rows)}{"".join(charts)}</div>{_table(faults)}'
        "<p><small>Latency counts from the moment a request was due by the schedule until its whole answer was there; "
        "the schedule does not wait for answers (open loop).</small></p></body></html>\n"
    )


def _table(rows: Sequence[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in rows)
    return f"<table>{cells}</table>" if rows else ""


def _step_seconds(result: Result) -> float:
    """Length of the intervals of the charts over time, 1 s at least."""
    return max(1.0, result.options.duration_seconds / TIME_STEPS)


def _latency_over_time(result: Result) -> str:
    step, target = _step_seconds(result), result.options.target_seconds
    intervals: defaultdict[int, list[float]] = defaultdict(list)
    for exchange in result.exchanges:
        if exchange.kind == ANSWERED:
            intervals[int(exchange.due_seconds / step)].append(exchange.latency_seconds)
    ranks = {"median": ("a", 50), "p99": ("c", 99), "slowest": ("b", 100)}
    series = [
        Series(name, style, [((k + 0.5) * step, float(np.percentile(v, rank))) for k, v in sorted(intervals.items())])
        for name, (style, rank) in ranks.items()
    ]
    lowest = min((min(values) for values in intervals.values()), default=LOWEST_LATENCY_SECONDS)
    y = logarithmic_axis("seconds", max(lowest, LOWEST_LATENCY_SECONDS), max(target * 2, result.summary.max_seconds))
    x = linear_axis(
        "seconds since the start (when the request was due)", result.options.duration_seconds, round_up=False
    )
    return chart("Latency over time", x, y, series, [Mark(target, f"target {target:g} s")])


def _latency_distribution(result: Result) -> str:
    target = result.options.target_seconds
    series = [
        Series(kind, style, _cumulative([e.latency_seconds for e in result.exchanges if e.kind == kind]))
        for kind, style in ((ANSWERED, "a"), (REFUSED, "b"))
        if any(exchange.kind == kind for exchange in result.exchanges)
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


def _throughput(result: Result) -> str:
    step = _step_seconds(result)
    end_seconds = max((e.finished_seconds for e in result.exchanges), default=result.options.duration_seconds)
    steps = math.ceil(max(end_seconds, result.options.duration_seconds) / step)

    def per_second(times: list[float]) -> list[Point]:
        counts = np.bincount((np.array(times, dtype=np.float64) / step).astype(int), minlength=steps)[:steps] / step
        return [(index * step, float(count)) for index, count in enumerate([*counts, counts[-1]])]

    finished: dict[str, list[Exchange]] = {
        "answered": [e for e in result.exchanges if e.kind == ANSWERED],
        "refused": [e for e in result.exchanges if e.kind == REFUSED],
        "errors": [e for e in result.exchanges if e.kind not in (ANSWERED, REFUSED)],
    }
    series = [Series("offered", "c", per_second([e.due_seconds for e in result.exchanges]), stepped=True)] + [
        Series(name, style, per_second([e.finished_seconds for e in exchanges]), stepped=True)
        for (name, exchanges), style in zip(finished.items(), "abd", strict=True)
        if exchanges
    ]
    highest = max((height for line in series for _, height in line.points), default=1.0)
    x = linear_axis("seconds since the start", steps * step, round_up=False)
    return chart("Throughput over time", x, linear_axis("requests/s", highest), series)


def _memory(result: Result) -> str:
    if not result.memory_seconds_bytes:
        return ""
    points = [(seconds, memory_bytes / 2**20) for seconds, memory_bytes in result.memory_seconds_bytes]
    x = linear_axis("seconds since the start", max(points[-1][0], 1.0), round_up=False)
    y = linear_axis("MiB", max(height for _, height in points))
    return chart("Resident memory of the service", x, y, [Series("resident", "a", points)])
