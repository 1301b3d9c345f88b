"""The Locust file: it says what it loads, and Locust runs it."""

import ast
import asyncio
import csv
import sys
from pathlib import Path

import loadtests
from loadtests.generator import PREDICTIONS
from tests.loadtests.scripted_server import REFUSAL, Reply

LOCUSTFILE = Path(loadtests.__file__).parent / "locustfile.py"


def test_it_defines_a_user_with_a_task():
    """The file is valid and has what Locust looks for: a user class with a task."""
    classes = [node for node in ast.parse(LOCUSTFILE.read_text()).body if isinstance(node, ast.ClassDef)]
    assert [ast.unparse(base) for node in classes for base in node.bases] == ["FastHttpUser"]
    tasks = [f.name for f in classes[0].body if isinstance(f, ast.FunctionDef) and f.decorator_list]
    assert tasks == ["predict"]


async def test_locust_runs_it(server, tmp_path):
    """Answers and proper refusals are successes with names of their own, everything else is a failure."""

    async def script(number):
        return (Reply(), REFUSAL, Reply(500, b"{}"), Reply(200, b"{}"))[number % 4]

    server.script = script
    words = ["-f", str(LOCUSTFILE), "--host", server.url, "--headless", "--users", "8", "--spawn-rate", "8"]
    words += ["--run-time", "6s", "--csv", str(tmp_path / "seen"), "--only-summary"]
    locust = await asyncio.create_subprocess_exec(sys.executable, "-m", "locust", *words)
    assert await locust.wait() == 1  # its status says that requests failed
    with (tmp_path / "seen_stats.csv").open() as lines:
        rows = {row["Name"]: row for row in csv.DictReader(lines)}
    assert int(rows[PREDICTIONS]["Request Count"]) > int(rows[PREDICTIONS]["Failure Count"]) > 0
    assert int(rows[f"{PREDICTIONS} refused"]["Request Count"]) > 0
    assert int(rows[f"{PREDICTIONS} refused"]["Failure Count"]) == 0
