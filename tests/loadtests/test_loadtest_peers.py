"""python -m loadtests peers: its arithmetic, its reports, its command line, and what it reads."""

import dataclasses
import json

import pytest

from loadtests.peers import figures, main, report
from loadtests.peers.candidates import (
    CORES,
    MLSERVER,
    RIVALS,
    Candidate,
    Loop,
    as_form,
    as_v2_request,
    candidates,
    dermserve,
    read_probabilities,
    read_v2_answer,
)
from loadtests.peers.environments import REQUIREMENTS, is_installed, python_of
from loadtests.peers.figures import Reached, Spread, Target, judge, order, ratio, row, targets
from loadtests.peers.network import read_network
from loadtests.wrk import read_output
from tests.conftest import ROOT

NAMES = ["a", "b", "c", "d", "e", "f"]


def reached(rate, one_client_p50_seconds=0.01, **more):
    """One candidate in one round."""
    figures = {"p50_seconds": 0.05, "p99_seconds": 0.1, "refused": 0, "failed": 0}
    return Reached(answers_per_second=rate, one_client_p50_seconds=one_client_p50_seconds, **(figures | more))


def rounds_of(**rates):
    """Rounds in which each candidate reached these answers a second."""
    return [dict(zip(rates, map(reached, line), strict=True)) for line in zip(*rates.values(), strict=True)]


def test_every_round_measures_everybody_once():
    """A round leaves nobody out, however many rounds there are."""
    assert all(sorted(order(NAMES, number, rounds)) == NAMES for rounds in (1, 3, 5, 9) for number in range(rounds))


def test_nobody_keeps_a_place():
    """The order rotates from round to round: another candidate is first each time, another one last."""
    orders = [order(NAMES, number, 5) for number in range(5)]
    assert len({line[0] for line in orders}) == len({line[-1] for line in orders}) == 5


def test_the_ratio_is_taken_round_by_round():
    """A disturbed round shifts both figures, so its ratio counts, not the ratio of the medians."""
    rounds = rounds_of(ours=[100.0, 10.0, 200.0], theirs=[50.0, 5.0, 50.0])
    assert ratio(rounds, "ours", "theirs", "answers_per_second") == Spread(2.0, 2.0, 4.0)


def test_rounds_that_miss_one_are_left_out_of_the_ratio():
    """Where one of both failed or answered nothing there is no ratio."""
    rounds = [*rounds_of(ours=[100.0, 90.0], theirs=[50.0, 0.0]), {"ours": reached(100.0)}]
    assert ratio(rounds, "ours", "theirs", "answers_per_second") == Spread(2.0, 2.0, 2.0)
    assert ratio(rounds[2:], "ours", "theirs", "answers_per_second") is None


def test_a_row_shows_median_spread_and_every_error():
    """Medians of the rounds, lowest and highest, and the sum of all refusals and failures."""
    rounds = [{"it": reached(rate, refused=2, failed=1)} for rate in (30.0, 10.0, 20.0)]
    line = row(rounds, "it", "It", "2 workers", [])
    assert line is not None
    assert line.answers_per_second == Spread(20.0, 10.0, 30.0)
    assert (line.refused, line.failed, line.rounds) == (6, 3, 3)
    assert row(rounds, "other", "Other", "", []) is None


@pytest.mark.parametrize(
    ("limits", "met"), [({"at_least": 2.0}, True), ({"at_least": 2.1}, False), ({"at_most": 1.9}, False)]
)
def test_a_target_is_held_against_the_median(limits, met):
    """Met only when the median of the ratios lies on the promised side."""
    rounds = rounds_of(ours=[100.0, 10.0, 200.0], theirs=[50.0, 5.0, 50.0])
    (judged,) = judge(rounds, [Target("ours", "theirs", "answers_per_second", **limits)])
    assert judged.met is met


def test_a_target_without_a_figure_is_not_met():
    """A rival that failed in every round is no success of ours."""
    (judged,) = judge([{"ours": reached(1.0)}], [Target("ours", "theirs", "answers_per_second", at_least=1.0)])
    assert not judged.met


def test_targets_of_the_issue():
    """With fp32 against each rival in both rows, with the own choice twice as fast, and both against the bare loop."""
    names = [candidate.name for candidate in candidates("fp32", [], ["fp32", "int8"])]
    promised = {(t.ours, t.theirs): t.at_least for t in targets(names, "int8") if t.figure == "answers_per_second"}
    assert (
        promised["dermserve-fp32", "fastapi-tuned"] == promised["dermserve-fp32", "fastapi-tuned-our-decoder"] == 1.15
    )
    assert promised["dermserve-fp32", "mlserver"] == 1.5
    assert promised["dermserve-auto", "bentoml-our-decoder"] == 2.0
    assert promised["dermserve-auto", "bare-int8"] == promised["dermserve-fp32", "bare-fp32"] == 0.85


@pytest.fixture
def finished():
    """A report of two candidates over two rounds, one target met and one missed."""
    rounds = rounds_of(**{"dermserve-fp32": [200.0, 220.0], "litserve": [100.0, 105.0]})
    rows = [row(rounds, name, f"{name} <title>", "2 workers", ["dermserve-fp32"]) for name in rounds[0]]
    promised = [
        Target("dermserve-fp32", "litserve", "answers_per_second", at_least=1.25),
        Target("dermserve-fp32", "litserve", "one_client_p50_seconds", at_most=0.5),
    ]
    return report.Report(
        started_at="2026-01-01T00:00:00+00:00",
        circumstances={"machine": "2 cores"},
        rows=rows,
        judged=judge(rounds, promised),
        tried={"litserve": {"2 workers": 100.0}},
        notes={"litserve": ["1 worker: ended with status 1"]},
        rounds=rounds,
    )


@pytest.mark.parametrize("shown", [report.text, report.markdown, report.page])
def test_the_table_shows_ratios_targets_and_failures(finished, shown):
    """All three forms hold the ratio with its spread, the missed target and the rival's failure."""
    page = shown(finished)
    assert "2.05 (2.00-2.10)" in page
    assert "ended with status 1" in page
    assert "MISSED" in page or "**no**" in page
    assert not finished.met


def test_the_page_escapes(finished):
    """Names never become markup."""
    assert "<title>dermserve side by side" in report.page(finished)
    assert "litserve <title>" not in report.page(finished)


def test_report_files(finished, tmp_path):
    """JSON for machines, Markdown for the documentation, a page for people; the JSON holds every round."""
    paths = report.write(finished, tmp_path / "new")
    assert [path.name for path in paths] == ["peers.json", "peers.md", "peers.html"]
    rounds = json.loads(paths[0].read_text())["rounds"]
    assert rounds[1]["litserve"] == dataclasses.asdict(finished.rounds[1]["litserve"])


def test_the_network_is_the_production_version(tmp_path):
    """Names, size and files come from the version that the alias points to."""
    folder = tmp_path / "lesion7" / "7"
    folder.mkdir(parents=True)
    (tmp_path / "lesion7" / "aliases.json").write_text('{"production": "7"}')
    manifest = {
        "classes": ["x", "y"],
        "graph": {"input": "in", "probabilities": "out"},
        "variants": {"fp32": {"file": "a.onnx"}, "int8": {"file": "b.onnx"}},
        "preprocessing": {"height": 32, "width": 64, "resize": "squash", "reduced_decode_factor": 2},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    network = read_network(tmp_path)
    assert (network.version, network.classes, network.input, network.output) == ("7", ("x", "y"), "in", "out")
    assert (network.height, network.width, network.reduced_decode_factor) == (32, 64, 2)
    assert network.files == {"fp32": folder / "a.onnx", "int8": folder / "b.onnx"}


def test_another_way_to_resize_is_refused(tmp_path):
    """A version that is fed in a way that the rivals do not know would be compared unfairly."""
    (tmp_path / "lesion7" / "1").mkdir(parents=True)
    (tmp_path / "lesion7" / "aliases.json").write_text('{"production": "1"}')
    (tmp_path / "lesion7" / "1" / "manifest.json").write_text('{"preprocessing": {"resize": "pad"}}')
    with pytest.raises(ValueError, match="pad"):
        read_network(tmp_path)


def test_the_shipped_network_can_be_read():
    """The files of the shipped version exist for each variant."""
    network = read_network()
    assert len(network.classes) == 7
    assert all(path.is_file() for path in network.files.values())


def test_rows_of_the_table():
    """dermserve twice, a bare loop for each variant, each rival twice."""
    rows = candidates("fp32", [], ["fp32", "int8"])
    assert len(rows) == 2 + 2 + 2 * len(RIVALS)
    assert len({candidate.name for candidate in rows}) == len(rows)


def test_only_takes_names_and_families():
    """--only litserve means both of its rows; a name that nobody has is an error that lists all."""
    assert [c.name for c in candidates("fp32", ["litserve"], ["fp32"])] == ["litserve", "litserve-our-decoder"]
    assert [c.name for c in candidates("fp32", ["bare"], ["fp32"]) if isinstance(c, Loop)] == ["bare-fp32"]
    with pytest.raises(ValueError, match="no candidate torchserve; there are .*mlserver"):
        candidates("fp32", ["torchserve"], ["fp32"])


def test_settings_reach_the_server():
    """What a set-up says stands in the rival's environment."""
    way = next(way for way in MLSERVER.ways if way.batch > 1)
    told = MLSERVER.environment_variables(way, 4000)
    assert (told["PEERS_BATCH"], told["PEERS_WORKERS"]) == (str(way.batch), str(CORES))
    assert (told["MLSERVER_HTTP_PORT"], told["MLSERVER_GRPC_PORT"], told["MLSERVER_METRICS_PORT"]) == (
        "4000",
        "4001",
        "4002",
    )
    assert dermserve("auto").environment_variables(way, 4000)["DERMSERVE_VARIANT"] == "auto"


def test_bodies():
    """The same picture as a form and as V2 inference request."""
    content_type, body = as_form("file")(b"\xff\x00picture")
    assert content_type.endswith(body.split(b"\r\n")[0].decode().removeprefix("--"))
    assert b'name="file"' in body
    assert b"\xff\x00picture\r\n--" in body
    tensor = json.loads(as_v2_request(b"picture")[1])["inputs"][0]
    assert (tensor["datatype"], tensor["data"]) == ("BYTES", ["cGljdHVyZQ=="])


def test_answers():
    """Probabilities in the order of the classes, from each kind of answer."""
    assert read_probabilities(b'{"probabilities": {"b": 0.9, "a": 0.1}}', ["a", "b"]) == [0.1, 0.9]
    assert read_probabilities(b'[{"probabilities": {"b": 0.9, "a": 0.1}}]', ["a", "b"]) == [0.1, 0.9]
    assert read_v2_answer(b'{"outputs": [{"data": [0.1, 0.9]}]}', ["a", "b"]) == [0.1, 0.9]
    with pytest.raises(ValueError, match="1 probabilities for 2 classes"):
        read_v2_answer(b'{"outputs": [{"data": [0.1]}]}', ["a", "b"])


def test_what_wrk_prints():
    """Refusals do not count as answers; microseconds become seconds."""
    counts = {"answers": 110, "microseconds": 2_000_000, "statuses": 10, "sockets": 3}
    line = json.dumps(counts | {"p50_us": 1500, "p99_us": 9000, "max_us": 9500})
    found = read_output(f"Running 2s test\n  something\n{line}\n")
    assert (found.answers_per_second, found.p50_seconds, found.refused, found.failed) == (50.0, 0.0015, 10, 3)


def test_every_requirement_is_pinned_and_the_engine_is_ours():
    """Each rival's environment is exact, holds no torch, and runs the ONNX Runtime and Pillow of the project."""
    locked = set((ROOT / "requirements.lock").read_text().split())
    for rival in RIVALS:
        lines = (REQUIREMENTS / f"{rival.environment}.txt").read_text().splitlines()
        pins = [line for line in lines if not line.startswith("#")]
        assert all("==" in pin and "torch" not in pin for pin in pins)
        engines = {pin for pin in pins if pin.split("==")[0] in ("onnxruntime", "pillow", "numpy")}
        assert len(engines) == 3
        assert engines <= locked


def test_an_environment_of_other_requirements_is_made_anew(tmp_path):
    """An environment counts as installed only with the mark of the present requirements."""
    assert not is_installed("litserve", tmp_path)
    (tmp_path / "litserve").mkdir()
    (tmp_path / "litserve" / "installed-requirements.sha256").write_text("of last year")
    assert not is_installed("litserve", tmp_path)
    assert is_installed(None, tmp_path)
    assert python_of("litserve", tmp_path) == tmp_path / "litserve" / "bin" / "python"


def test_the_rivals_commands_name_programs_that_exist():
    """Each command starts a module of this repository."""
    for rival in RIVALS:
        told = " ".join(rival.command) + " " + " ".join(rival.variables.values())
        module = next(word for word in told.replace(":", " ").split() if word.startswith("loadtests.peers.servers."))
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or path.parent.with_suffix(".py").is_file()
        assert isinstance(rival, Candidate)


def test_without_wrk_it_says_how_to_install_it(monkeypatch, capsys):
    """Status 2 and one line: no Python client takes wrk's place."""
    monkeypatch.setenv("PATH", "")
    assert main(["--only", "bare"]) == 2
    error = capsys.readouterr().err.strip()
    assert "apt-get install wrk" in error
    assert "\n" not in error


@pytest.mark.parametrize("wrong", [["--rounds", "0"], ["--seconds", "1.5"], ["--nothing"]])
def test_wrong_usage(wrong, capsys):
    """A wrong option ends with status 2 and is named."""
    with pytest.raises(SystemExit, match="2"):
        main(wrong)
    assert wrong[0].lstrip("-") in capsys.readouterr().err


def test_figures_are_promised_as_the_issue_says():
    """The numbers of the promises stand in one place."""
    assert figures.AT_LEAST == {"fastapi-tuned": 1.15, "litserve": 1.25, "bentoml": 1.5, "mlserver": 1.5}
