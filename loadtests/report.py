"""What is left of a run: a table to read, report.json for machines, report.html for people."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from loadtests.page import page
from loadtests.run import Result


def rows(result: Result) -> list[tuple[str, str]]:
    """The figures in words, in the order of interest."""
    summary, target = result.summary, f"{result.options.target_seconds:g} s"
    table = [
        ("Model", result.model),
        (
            "Requests",
            f"{summary.requests} in {result.options.duration_seconds:g} s, {result.options.arrivals} arrivals",
        ),
        ("Offered rate", f"{summary.offered_per_second:.1f} /s"),
        ("Achieved rate", f"{summary.achieved_per_second:.1f} answers/s"),
        (f"Answered within {target}", f"{summary.share_within_target:.3%} ({summary.answered_within_target} requests)"),
        ("Latency p50", milliseconds(summary.p50_seconds)),
        ("Latency p95", milliseconds(summary.p95_seconds)),
        ("Latency p99", milliseconds(summary.p99_seconds)),
        ("Latency max", milliseconds(summary.max_seconds)),
        ("Refused with Retry-After", _refusals(result)),
        ("Errors", ", ".join(f"{kind}: {number}" for kind, number in summary.errors.items()) or "none"),
    ]
    return table + _circumstances(result)


def _refusals(result: Result) -> str:
    if not result.summary.refused:
        return "none"
    return f"{result.summary.refused} (p99 {milliseconds(result.summary.refusal_p99_seconds)})"


def _circumstances(result: Result) -> list[tuple[str, str]]:
    """What the service and the generator needed."""
    table = []
    if result.capacity:
        capacity = result.capacity
        table.append(
            ("Capacity", f"{capacity.answers_per_second:.1f} answers/s with {capacity.clients} callers at once")
        )
    if result.server_count:
        count = result.server_count
        table.append(("Service's own count", f"{count.within_target} of {count.requests} within the target"))
        table.append(("Client's count", f"{result.summary.replies_within_target} replies within the target"))
    if result.memory:
        mib = [f"{b / 2**20:.0f}" for b in dataclasses.astuple(result.memory)]
        table.append(("Service memory", f"{mib[0]} MiB before, {mib[1]} MiB at most, {mib[2]} MiB after"))
    if result.service_cores is not None:
        table.append(("Service processor use", f"{result.service_cores:.2f} cores"))
    lag = milliseconds(result.summary.generator_lag_p99_seconds)
    table.append(("Generator", f"{result.generator_cores:.2f} cores, behind its schedule by {lag} at p99"))
    table.append(
        ("Connections", f"{result.connections_opened} opened, {result.most_in_flight} requests in flight at most")
    )
    return table


def milliseconds(seconds: float) -> str:
    """Seconds for people: 12.3 ms, 3.21 s."""
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def text_table(result: Result) -> str:
    """The table and the verdict as plain text."""
    lines = rows(result)
    width = max(len(name) for name, _ in lines)
    text = [f"{name:<{width}}  {value}" for name, value in lines]
    text += [f"  {number} x {fault}" for fault, number in list(result.faults.items())[:10]]
    return "\n".join([*text, "", *result.verdict.doubts, result.verdict.sentence])


def report_object(result: Result) -> dict[str, Any]:
    """All figures; of the single requests only their latencies, in the order in which they ended."""
    # asdict copies deeply: hundreds of thousands of exchanges are left out of that
    plain = dataclasses.asdict(dataclasses.replace(result, exchanges=(), picture_bytes=()))
    plain["summary"] |= {"share_within_target": result.summary.share_within_target, "doubtful": result.summary.doubtful}
    plain["picture_bytes"] = {"number": len(result.picture_bytes), "mean": float(np.mean(result.picture_bytes))}
    del plain["exchanges"]
    return {
        "verdict": plain.pop("verdict"),
        "summary": plain.pop("summary"),
        **plain,
        "latency_seconds_by_kind": _latencies_by_kind(result),
    }


def _latencies_by_kind(result: Result) -> dict[str, list[float]]:
    latencies: dict[str, list[float]] = {}
    for exchange in result.exchanges:
        latencies.setdefault(exchange.kind, []).append(round(exchange.latency_seconds, 6))
    return latencies


def write_report(result: Result) -> list[Path]:
    """Write report.json and report.html into the report folder; returns their paths."""
    folder = result.options.report_folder
    folder.mkdir(parents=True, exist_ok=True)
    as_json, as_page = folder / "report.json", folder / "report.html"
    as_json.write_text(json.dumps(report_object(result), default=str) + "\n", encoding="utf-8")
    as_page.write_text(page(result, rows(result)), encoding="utf-8")
    return [as_json, as_page]
