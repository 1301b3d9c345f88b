"""What is left of a run: table, report.json, report.html."""

import asyncio
import json
import re
import xml.etree.ElementTree as ElementTree

import pytest

from loadtests.options import Options
from loadtests.report import text_table, write_report
from loadtests.run import run_load_test
from loadtests.server_metrics import ServerCount, parse_samples, server_count
from tests.loadtests.scripted_server import REFUSAL, Reply

HISTOGRAM = """\
# HELP dermserve_prediction_duration_seconds x
dermserve_prediction_duration_seconds_bucket{{le="1.0"}} {within}
dermserve_prediction_duration_seconds_bucket{{le="3.0"}} {within}
dermserve_prediction_duration_seconds_bucket{{le="+Inf"}} {all}
dermserve_request_duration_seconds_bucket{{le="3.0",route="/metrics"}} 77
process_resident_memory_bytes 1.048576e+08
process_cpu_seconds_total 12.5
"""


@pytest.fixture
async def result(server, tmp_path):
    """A run with answers, refusals and errors against the scripted server."""

    async def script(number):
        return (Reply(), REFUSAL, Reply(500, b"{}"))[number % 3]

    server.script = script
    server.metrics_text = HISTOGRAM.format(within=4, all=5)
    options = Options(
        url=server.url, rate_per_second=60.0, duration_seconds=1.0, report_folder=tmp_path / "report", pictures=2
    )
    return await run_load_test(options)


async def test_report_json(result):
    """report.json is strict JSON and holds verdict, figures, options and every latency."""

    def no_constants(name):
        raise AssertionError(f"{name} is not JSON")

    as_json, _ = write_report(result)
    report = json.loads(as_json.read_text(), parse_constant=no_constants)
    assert report["verdict"]["passed"] is False
    assert report["summary"]["requests"] == sum(map(len, report["latency_seconds_by_kind"].values()))
    assert report["options"]["seed"] == 1
    assert report["memory"]["peak_bytes"] == 1.048576e8


async def test_report_html_needs_nothing_else(result):
    """report.html refers to no other file and runs no script."""
    _, as_page = write_report(result)
    text = as_page.read_text()
    assert not re.search(r"<script|<link|@import|url\(|\bsrc=", text)
    assert "prefers-color-scheme:dark" in text


async def test_report_html_has_the_verdict_before_the_charts(result):
    """The verdict stands above well-formed charts of latency, throughput, refusals, health and memory."""
    _, as_page = write_report(result)
    text = as_page.read_text()
    charts = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]
    assert len(charts) == 6
    assert all(chart.get("aria-label") for chart in charts)
    assert "nan" not in "".join(path.get("d", "") for chart in charts for path in chart)
    assert text.index("TARGET MISSED") < text.index("<svg")


async def test_report_html_escapes(result):
    """What the service says is text in the page, never markup."""
    result.observation.faults["<img src=x>"] = 1
    _, as_page = write_report(result)
    assert "<img" not in as_page.read_text()


async def test_a_run_without_a_request_has_a_report(server, tmp_path):
    """Also a run so short that nothing was due ends with a report and a missed target."""
    options = Options(url=server.url, rate_per_second=0.001, duration_seconds=0.1, report_folder=tmp_path, pictures=1)
    result = await run_load_test(options)
    assert len(write_report(result)) == 2
    assert not result.verdict.passed


async def test_the_table(result):
    """The table shows rates, percentiles, refusals, errors by kind and ends with the verdict."""
    text = text_table(result)
    for name in ("Offered rate", "Achieved rate", "within 3 s", "p50", "p95", "p99", "max", "Refused", "http_500: "):
        assert name in text
    assert text.endswith(result.verdict.sentence)


def test_the_services_own_count():
    """The service's histogram is read for the predictions of this run only."""
    before = parse_samples(HISTOGRAM.format(within=4, all=5))
    after = parse_samples(HISTOGRAM.format(within=94, all=105))
    assert server_count(before, after, 3.0) == ServerCount(answered=100, within_target=90)
    assert server_count([], after, 3.0) == ServerCount(answered=105, within_target=94)


def test_no_histogram_no_count():
    """A service without metrics, or without a bucket at the target, is not compared."""
    after = parse_samples(HISTOGRAM.format(within=94, all=105))
    assert server_count([], [], 3.0) is None
    assert server_count([], after, 2.5) is None


async def test_no_metrics_at_all(server, tmp_path):
    """A service without /metrics is measured all the same."""
    options = Options(url=server.url, rate_per_second=50.0, duration_seconds=0.4, report_folder=tmp_path, pictures=1)
    result = await asyncio.wait_for(run_load_test(options), 60)
    assert result.verdict.passed
    seen = result.observation
    assert (seen.memory, seen.server_count, seen.server.cores_used) == (None, None, None)
    assert "Service memory" not in text_table(result)
