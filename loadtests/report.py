"""What is left of a run: a table to read, report.json for machines, report.html for people."""

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from loadtests.health import PATHS
from loadtests.observation import Observation
from loadtests.page import Table, page
from loadtests.run import Result
from loadtests.summary import percentiles
from loadtests.verdict import Verdict

Rows = list[tuple[str, str]]


def rows(result: Result) -> Rows:
    """The figures of a plain load test in words, in the order of interest."""
    arrivals = f"{result.options.arrivals} arrivals"
    table = observation_rows(result.observation, arrivals)
    if result.capacity:
        capacity = result.capacity
        by = f"{capacity.clients} callers at once ({capacity.measured_by})"
        table.append(("Capacity", f"{capacity.answers_per_second:.1f} answers/s with {by}"))
    return table


def observation_rows(observation: Observation, arrivals: str = "Poisson arrivals") -> Rows:
    """The figures of any run in words."""
    summary, target = observation.summary, f"{observation.target_seconds:g} s"
    return [
        ("Model", observation.model),
        ("Requests", f"{summary.requests} in {observation.duration_seconds:g} s, {arrivals}"),
        ("Offered rate", f"{summary.offered_per_second:.1f} /s"),
        ("Achieved rate", f"{summary.achieved_per_second:.1f} answers/s"),
        (f"Answered within {target}", f"{summary.share_within_target:.3%} ({summary.answered_within_target} requests)"),
        ("Latency p50", milliseconds(summary.p50_seconds)),
        ("Latency p95", milliseconds(summary.p95_seconds)),
        ("Latency p99", milliseconds(summary.p99_seconds)),
        ("Latency max", milliseconds(summary.max_seconds)),
        *_endings(observation),
        *_service(observation),
        *_generator(observation),
    ]


def _endings(observation: Observation) -> Rows:
    summary = observation.summary
    table = [("Refused with Retry-After", "none")]
    if summary.refused:
        wait = (
            f"Retry-After median {summary.retry_after_p50_seconds:g} s, longest {summary.retry_after_max_seconds:g} s"
        )
        p99 = milliseconds(summary.refusal_p99_seconds)
        table = [("Refused with Retry-After", f"{summary.refused} (p99 {p99}; {wait})")]
    if summary.abandoned:
        table.append(("Left by their callers", str(summary.abandoned)))
    errors = ", ".join(f"{kind}: {number}" for kind, number in summary.errors.items()) or "none"
    return [*table, ("Errors", errors)]


def _service(observation: Observation) -> Rows:
    """What the service needed and said of itself."""
    table = []
    count = observation.server_count
    if count:
        by_service = f"{count.within_target} of {count.answered} answers within the target"
        by_callers = f"{observation.summary.answered_within_target} of {observation.summary.answered}"
        table.append(("Service's own count", f"{by_service}; its callers' {by_callers}"))
    if observation.memory:
        mib = [f"{b / 2**20:.0f}" for b in dataclasses.astuple(observation.memory)]
        table.append(("Service memory", f"{mib[0]} MiB before, {mib[1]} MiB at most, {mib[2]} MiB after"))
    if observation.server.cores_used is not None:
        table.append(("Service processor use", f"{observation.server.cores_used:.2f} cores"))
    for path in PATHS:
        probes = [probe for probe in observation.health if probe.path == path]
        p99 = milliseconds(percentiles([probe.latency_seconds for probe in probes], 99)[0])
        false = sum(probe.status != 200 for probe in probes)
        table.append((path, f"p99 {p99}, {false} of {len(probes)} probes false"))
    return table


def _generator(observation: Observation) -> Rows:
    lag = milliseconds(observation.summary.generator_lag_p99_seconds)
    opened, in_flight = observation.connections_opened, observation.most_in_flight
    return [
        ("Generator", f"{observation.generator_cores:.2f} cores, behind its schedule by {lag} at p99"),
        ("Connections", f"{opened} opened, {in_flight} requests in flight at most"),
    ]


def milliseconds(seconds: float) -> str:
    """Seconds for people: 12.3 ms, 3.21 s."""
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def text_table(result: Result) -> str:
    """The table and the verdict as plain text."""
    return observation_text(rows(result), result.observation, result.verdict)


def observation_text(table: Rows, observation: Observation, verdict: Verdict) -> str:
    """Figures, the most frequent faults, doubts and the verdict as plain text."""
    text = aligned(table) + [f"  {number} x {fault}" for fault, number in list(observation.faults.items())[:10]]
    return "\n".join([*text, "", *verdict.doubts, verdict.sentence])


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines with their columns in line."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def observation_object(observation: Observation) -> dict[str, Any]:
    """All figures; of the single requests only their latencies, in the order in which they ended."""
    # asdict copies deeply: hundreds of thousands of exchanges are left out of that
    plain = dataclasses.asdict(dataclasses.replace(observation, exchanges=(), health=()))
    summary, server = observation.summary, plain.pop("server")
    plain["summary"] |= {"share_within_target": summary.share_within_target, "doubtful": summary.doubtful}
    del plain["exchanges"], plain["health"]
    count, memory = observation.server_count, observation.memory
    return {
        "summary": plain.pop("summary"),
        **plain,
        "memory": dataclasses.asdict(memory) if memory else None,
        "memory_seconds_bytes": server["memory"],
        "service_cores": observation.server.cores_used,
        "server_count": dataclasses.asdict(count) if count else None,
        "health_seconds_by_path": {
            path: [round(p.latency_seconds, 6) for p in observation.health if p.path == path] for path in PATHS
        },
        "health_statuses": Counter(str(probe.status) for probe in observation.health),
        "latency_seconds_by_kind": _latencies_by_kind(observation),
    }


def _latencies_by_kind(observation: Observation) -> dict[str, list[float]]:
    latencies: dict[str, list[float]] = {}
    for exchange in observation.exchanges:
        latencies.setdefault(exchange.kind, []).append(round(exchange.latency_seconds, 6))
    return latencies


def report_object(result: Result) -> dict[str, Any]:
    """Verdict, options and figures of a plain load test."""
    return {
        "verdict": dataclasses.asdict(result.verdict),
        "options": dataclasses.asdict(result.options),
        "picture_bytes": {"number": len(result.picture_bytes), "mean": float(np.mean(result.picture_bytes))},
        "rate_per_second": result.rate_per_second,
        "capacity": dataclasses.asdict(result.capacity) if result.capacity else None,
        **observation_object(result.observation),
    }


def write_report(result: Result) -> list[Path]:
    """Write report.json and report.html into the report folder; returns their paths."""
    title = f"Load test of {result.observation.url}"
    text = page(title, result.observation, result.verdict, [Table(rows(result))])
    return write_files(result.options.report_folder, "report", report_object(result), text)


def write_files(folder: Path, name: str, figures: Mapping[str, Any], html: str) -> list[Path]:
    """NAME.json and NAME.html in the folder; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    as_json, as_page = folder / f"{name}.json", folder / f"{name}.html"
    as_json.write_text(json.dumps(figures, default=str, allow_nan=False) + "\n", encoding="utf-8")
    as_page.write_text(html, encoding="utf-8")
    return [as_json, as_page]
