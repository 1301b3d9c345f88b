"""The rivals and the bare loop really started: they answer, they answer alike, they end."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from loadtests.peers import main
from loadtests.peers.candidates import FASTAPI_DEFAULT, FASTAPI_TUNED, RIVALS, Way, dermserve
from loadtests.peers.environments import is_installed, python_of
from loadtests.peers.network import ROOT, read_network
from loadtests.peers.pictures import peer_pictures
from loadtests.peers.profile import Profile, markdown, shares, summarise
from loadtests.peers.profile import main as profile_main
from loadtests.peers.running import CandidateFailedError, clean_environment, running
from loadtests.server_metrics import Sample
from loadtests.wrk import ClosedLoop, load, write_requests

VENVS = ROOT / "build" / "peers"
OWN_PYTHON = Path(sys.executable)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two pictures, also as files in `folder`."""
    folder = tmp_path_factory.mktemp("peers") / "pictures"
    return folder, peer_pictures(folder, 2, seed=1, megapixels=None)


@pytest.fixture(scope="module")
def reference(pictures):
    """What the bare loop answers: a list of probabilities for each picture."""
    answers = json.loads(bare_loop(pictures[0], "1", "answers", "1"))
    return [[answer[code] for code in read_network().classes] for answer in answers]


def bare_loop(folder, seconds, mode, workers):
    """The output of servers/bare_loop.py."""
    command = [sys.executable, "-m", "loadtests.peers.servers.bare_loop", str(folder), seconds, mode, workers]
    finished = subprocess.run(command, cwd=ROOT, env=clean_environment({}), capture_output=True, text=True, check=True)
    return finished.stdout


def answers_of(candidate, way, python, pictures, tmp_path):
    """A started server's probabilities for each picture."""
    with running(candidate, way, python, pictures[0], tmp_path / "log") as server:
        answers = [server.ask(picture) for picture in pictures]
    assert [answer.status for answer in answers] == [200] * len(pictures), answers
    return [way.read(answer.body, read_network().classes) for answer in answers]


@pytest.fixture
def wrk():
    """The Debian package wrk; without it the test is skipped, on CI it fails."""
    if shutil.which("wrk") is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("needs wrk")


@pytest.mark.parametrize("candidate", [FASTAPI_DEFAULT, FASTAPI_TUNED], ids=lambda candidate: candidate.name)
def test_fastapi_answers_as_the_bare_loop(candidate, pictures, reference, tmp_path):
    """Both FastAPI rivals, in the project's environment, give the bare loop's probabilities."""
    found = answers_of(candidate, candidate.ways[0], OWN_PYTHON, pictures[1], tmp_path)
    np.testing.assert_allclose(found, reference, atol=1e-3)


def test_dermserve_answers_as_the_bare_loop(pictures, reference, tmp_path):
    """The service with fp32 gives the bare loop's probabilities: the comparison is of the same network."""
    candidate = dermserve("fp32")
    found = answers_of(candidate, candidate.ways[0], OWN_PYTHON, pictures[1], tmp_path)
    np.testing.assert_allclose(found, reference, atol=0.02)


@pytest.mark.parametrize(
    ("rival", "way"),
    [(rival, way) for rival in RIVALS if rival.environment != "fastapi" for way in rival.ways],
    ids=lambda value: value.label if isinstance(value, Way) else value.name,
)
def test_a_framework_answers_as_the_bare_loop(rival, way, pictures, reference, tmp_path):
    """Every set-up of every framework gives the bare loop's probabilities."""
    if not is_installed(rival.environment, VENVS):
        why = f"{rival.title} is not installed: `python -m loadtests peers --install` does that"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(why)
    found = answers_of(rival, way, python_of(rival.environment, VENVS), pictures[1], tmp_path)
    np.testing.assert_allclose(found, reference, atol=1e-3)


@pytest.mark.parametrize("mode", ["threads", "processes"])
def test_the_bare_loop_counts(mode, pictures):
    """Two loops at once give a rate and the time of a picture that fit each other."""
    found = json.loads(bare_loop(pictures[0], "1", mode, "2"))
    assert found["pictures_per_second"] > 0
    assert 0 < found["picture_p50_seconds"] <= found["picture_p99_seconds"]


def test_a_server_that_ends_is_told_with_its_last_words(pictures, tmp_path):
    """A rival that cannot start is a failure with a reason, not a hang."""
    broken = dermserve("no-such-variant")
    with (
        pytest.raises(CandidateFailedError, match=r"ended with status 1: .*variant"),
        running(broken, broken.ways[0], OWN_PYTHON, pictures[1][0], tmp_path / "log"),
    ):
        pass


def test_wrk_takes_pictures_in_turn(wrk, service_url, pictures, tmp_path):
    """Requests prepared as files arrive whole: every one is answered with 200."""
    url = f"{service_url}/v1/predictions"
    requests = write_requests(tmp_path, "/v1/predictions", [("image/jpeg", picture) for picture in pictures[1]])
    found = load(url, requests, clients=2, seconds=1)
    assert found.answers_per_second > 0
    assert (found.refused, found.failed) == (0, 0)


def test_wrk_tells_refusals(wrk, service_url, tmp_path):
    """An answer of status 400 is no answer."""
    requests = write_requests(tmp_path, "/v1/predictions", [("image/jpeg", b"\xff\xd8\xff no picture")])
    found = load(f"{service_url}/v1/predictions", requests, clients=1, seconds=1)
    assert found.answers_per_second == 0
    assert found.refused > 0


def test_a_whole_comparison(wrk, tmp_path, capsys):
    """dermserve and the bare loop through two short rounds: a table, three reports, a status that fits the targets."""
    arguments = ["--only", "dermserve-fp32", "bare-fp32", "--rounds", "2", "--seconds", "1", "--tuning-seconds", "1"]
    status = main([*arguments, "--pictures", "2", "--clients", "2", "--report", str(tmp_path)])
    table = capsys.readouterr().out
    assert status == (1 if "MISSED" in table else 0)
    assert "bare loop, fp32" in table
    assert len(json.loads((tmp_path / "peers.json").read_text())["rounds"]) == 2


def test_a_profile(wrk, tmp_path, capsys):
    """The stages of a request by the service's own clocks, for each number of clients."""
    assert profile_main(["--seconds", "1", "--clients", "1", "2", "--variant", "fp32", "--report", str(tmp_path)]) == 0
    assert "| inference |" in capsys.readouterr().out
    for found in json.loads((tmp_path / "profile.json").read_text()):
        assert 0 < found["service_seconds"] < found["caller_seconds"] * 1.5


def test_the_profile_counts_only_its_own_requests():
    """Means come from what sums and counts grew by between two readings."""

    def reading(answers, decode, whole):
        stage, total = "dermserve_stage_duration_seconds", "dermserve_prediction_duration_seconds"
        return [
            Sample(f"{stage}_sum", {"stage": "decode"}, decode),
            Sample(f"{total}_sum", {}, whole),
            Sample(f"{total}_count", {}, answers),
        ]

    loop = ClosedLoop(10.0, 0.1, 0.2, 0.3, 0, 0)
    found = summarise(2, loop, reading(5, 1.0, 2.0), reading(15, 1.4, 3.0), {})
    assert found.stages_seconds["decode"] == pytest.approx(0.04)
    assert found.service_seconds == pytest.approx(0.1)
    assert (found.caller_seconds, found.outside_seconds) == (pytest.approx(0.2), pytest.approx(0.1))


def test_processor_samples():
    """py-spy's stacks become the shares of their innermost functions."""
    assert shares("a (x.py:1);b (x.py:2) 3\na (x.py:1);c (x.py:3) 1\n") == {"b (x.py:2)": 0.75, "c (x.py:3)": 0.25}
    profile = Profile(1, 10.0, {"decode": 0.05}, 0.06, 0.1, {"b (x.py:2)": 0.75})
    assert "| `b (x.py:2)` | 75.0% |" in markdown([profile])
    assert "| decode | 50.00 | 50.0% |" in markdown([profile])
