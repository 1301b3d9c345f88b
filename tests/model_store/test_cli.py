"""`dermserve-models`: one command, a table or JSON, one exit code, and one line when it fails."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from model_store.__main__ import main
from model_store.replay import Runner
from model_store.store import ModelStore
from tests.conftest import encoded, lesion_picture
from tests.model_store.builders import runnable_fields, runnable_files
from tests.model_store.places import S3Place

Output = pytest.CaptureFixture[str]


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """Versions 1 and 2 alike, 3 far worse; nothing promoted."""
    made = ModelStore(tmp_path / "store")
    for accuracy in (0.75, 0.75, 0.5):
        made.publish(runnable_files(accuracy), runnable_fields())
    return made


def run(store: ModelStore, *arguments: object) -> int:
    return main(["--store", store.location, *map(str, arguments)])


def told(output: Output) -> Any:
    """What was printed as JSON."""
    return json.loads(output.readouterr().out)


def test_list_shows_versions_and_aliases(store: ModelStore, capsys: Output) -> None:
    """Each version has a line; the one that an alias names says so."""
    store.promote("lesion7", "2")
    assert run(store, "list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert "production" in lines[2]
    assert "0.750 (0.710-0.790)" in lines[2]


def test_list_names_a_damaged_version_and_shows_the_others(store: ModelStore, capsys: Output) -> None:
    """One bad version does not hide the good ones."""
    (store.root / "lesion7" / "1" / "manifest.json").write_bytes(b"{")
    assert run(store, "list", "--json") == 0
    rows = told(capsys)
    assert [row["version"] for row in rows] == ["1", "2", "3"]
    assert "not acceptable JSON" in rows[0]["variants"]


def test_json_may_be_asked_for_before_or_after_the_command(store: ModelStore, capsys: Output) -> None:
    """Both are understood."""
    for words in (["--json", "list"], ["list", "--json"]):
        assert run(store, *words) == 0
        assert [row["version"] for row in told(capsys)] == ["1", "2", "3"]


def test_show_prints_figures_and_card(store: ModelStore, capsys: Output) -> None:
    """`show` prints the figures with their intervals and the model card."""
    assert run(store, "show", "lesion7", "1") == 0
    text = capsys.readouterr().out
    assert "0.750 (0.710-0.790)" in text
    assert "# Card of a tiny version" in text


def test_show_writes_a_plot(store: ModelStore, tmp_path: Path, capsys: Output) -> None:
    """A plot comes out as published; one that is not there is named."""
    assert run(store, "show", "lesion7", "1", "--plot", "roc", "--out", tmp_path / "roc.png") == 0
    assert (tmp_path / "roc.png").read_bytes() == b"picture"
    assert run(store, "show", "lesion7", "1", "--plot", "none", "--out", tmp_path / "x.png") == 1
    assert "plots/none.png" in capsys.readouterr().err


def test_compare_shows_figures_side_by_side(store: ModelStore, capsys: Output) -> None:
    """Each figure of both with its interval; those apart are marked."""
    assert run(store, "compare", "lesion7", "1", "3") == 0
    text = capsys.readouterr().out
    assert re.search(r"0.750 \(0.710-0.790\) +0.500 \(0.460-0.540\) +-0.250\*", text)


def test_compare_finds_the_pictures_that_change(store: ModelStore, tmp_path: Path, capsys: Output) -> None:
    """Pictures whose first diagnosis or decision differs are listed by name; equal versions have none."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed in range(2):
        (folder / f"{seed}.jpg").write_bytes(encoded(lesion_picture(120, 90, seed)))
    assert run(store, "compare", "lesion7", "1", "2", "--pictures", folder, "--json") == 0
    found = told(capsys)
    assert (found["pictures"], found["changed"]) == (2, [])
    fields = runnable_fields(malignancy=runnable_fields()["malignancy"] | {"threshold": 0.999999})
    store.publish(runnable_files(), fields)
    assert run(store, "compare", "lesion7", "1", "4", "--pictures", folder, "--json") == 0
    assert {row["picture"] for row in told(capsys)["changed"]} <= {"0.jpg", "1.jpg"}


def test_keys_sign_verify(store: ModelStore, tmp_path: Path, capsys: Output) -> None:
    """A key is made, signs a version, and its public half verifies that; an unsigned one is refused."""
    assert run(store, "keys", "new", tmp_path / "release") == 0
    assert run(store, "sign", "lesion7", "1", "--key", tmp_path / "release.key") == 0
    capsys.readouterr()
    assert run(store, "verify", "lesion7", "1", "--trusted", tmp_path / "release.pub", "--json") == 0
    assert len(told(capsys)["trusted"]) == 1
    assert run(store, "verify", "lesion7", "2", "--trusted", tmp_path) == 1
    assert "not signed" in capsys.readouterr().err


def test_verify_names_the_damaged_file(store: ModelStore, capsys: Output) -> None:
    """A damaged version ends with exit code 1 and one line that names the file."""
    (store.root / "lesion7" / "1" / "golden.npz").write_bytes(b"")
    assert run(store, "verify", "lesion7", "1") == 1
    error = capsys.readouterr().err
    assert "golden.npz" in error
    assert error.count("\n") == 1


def test_promote_and_rollback(store: ModelStore, capsys: Output) -> None:
    """`promote` moves production through the gate, `rollback` moves it back; both print where the aliases stand."""
    assert run(store, "promote", "lesion7", "1") == run(store, "promote", "lesion7", "2") == 0
    assert "FAIL" not in capsys.readouterr().out
    assert run(store, "rollback", "lesion7") == 0
    assert "previous -> 2, production -> 1" in capsys.readouterr().out


def test_promote_stops_a_worse_version(store: ModelStore, capsys: Output) -> None:
    """What does not pass is printed with its figures, nothing moves, exit code 1; `gate` says the same."""
    assert run(store, "gate", "lesion7", "3") == run(store, "promote", "lesion7", "3") == 1
    text = capsys.readouterr().out
    assert "FAIL  balanced accuracy " in text
    assert "is not promoted" in text
    assert store.aliases("lesion7") == {}


def test_force_needs_a_reason_and_records_it(store: ModelStore, capsys: Output) -> None:
    """Past the gate only with a reason, which stands in the history with what had failed."""
    assert run(store, "promote", "lesion7", "3", "--force") == 1
    assert "--force needs a --reason" in capsys.readouterr().err
    assert run(store, "promote", "lesion7", "3", "--force", "--reason", "version 2 is on fire") == 0
    capsys.readouterr()
    assert run(store, "history", "lesion7", "--json") == 0
    (move,) = told(capsys)["history"]
    assert move["reason"] == "version 2 is on fire"
    assert "balanced accuracy" in move["failed"]


def test_retire_keeps_the_newest_and_those_in_use(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked, and not answered with yes, nothing goes; with --yes the old and unused go."""
    store.promote("lesion7", "1")
    with open(os.devnull) as nobody:  # noqa: PTH123
        monkeypatch.setattr("sys.stdin", nobody)
        assert run(store, "retire", "lesion7", "--keep", "1") == 1
    assert store.versions("lesion7") == ["1", "2", "3"]
    assert run(store, "retire", "lesion7", "--keep", "1", "--yes") == 0
    assert store.versions("lesion7") == ["1", "3"]


def test_replay_repeats_an_answer_to_the_last_bit(store: ModelStore, tmp_path: Path, capsys: Output) -> None:
    """By digest and variant: the same numbers every time, those of the engine's own kind of session."""
    picture = encoded(lesion_picture(120, 90))
    (tmp_path / "picture.jpg").write_bytes(picture)
    version = store.open("lesion7", "2")
    expected = Runner(version, "int8").answer(picture).by_class(version.manifest)
    words = ("replay", tmp_path / "picture.jpg", "--digest", version.digest, "--variant", "int8")
    for _ in range(2):
        assert run(store, *words) == 0
        assert told(capsys)["probabilities"] == expected


def test_replay_compares_with_an_answer(store: ModelStore, tmp_path: Path, capsys: Output) -> None:
    """Given the service's answer it says whether it is repeated; exit code 1 when a bit differs."""
    (tmp_path / "picture.jpg").write_bytes(encoded(lesion_picture(120, 90)))
    version = store.open("lesion7", "2")
    found = Runner(version, "fp32").answer(encoded(lesion_picture(120, 90))).by_class(version.manifest)
    answer = {
        "model": {"digest": version.digest, "variant": "fp32"},
        "probabilities": dict(found),
        "malignancy": {"prevalence": None},
    }
    for change, code, differing in ((0.0, 0, []), (1e-9, 1, ["mel"])):
        answer["probabilities"]["mel"] = found["mel"] + change
        (tmp_path / "answer.json").write_text(json.dumps(answer))
        assert run(store, "replay", tmp_path / "picture.jpg", "--answer", tmp_path / "answer.json") == code
        assert told(capsys)["differing"] == differing


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("replay", "picture.jpg"), "say which version"),
        (("replay", "missing.jpg", "--digest", "sha256:0"), "no version in"),
        (("show", "lesion7", "9"), "has no version or alias '9'"),
        (("retire", "lesion7", "9", "--yes"), "has no version '9'"),
        (("rollback", "lesion7"), "no previous version"),
        (("sign", "lesion7", "1", "--key", "missing.key"), "missing.key: No such file"),
        (("promote", "lesion7", "1", "--gate", "missing.toml"), "missing.toml: No such file"),
        (("promote", "lesion7", "1", "--shadow", "missing.json"), "missing.json: No such file"),
        (("compare", "lesion7", "1", "2", "--pictures", "missing"), "no folder with pictures"),
    ],
)
def test_what_fails_is_one_line(store: ModelStore, words: tuple[str, ...], reason: str, capsys: Output) -> None:
    """Exit code 1 and one line on standard error that says what is wrong."""
    assert run(store, *words) == 1
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1


def test_a_missing_store_is_one_line(tmp_path: Path, capsys: Output) -> None:
    """A wrong --store is told plainly."""
    assert main(["--store", str(tmp_path / "nowhere"), "list"]) == 1
    assert "there is no model store" in capsys.readouterr().err


def test_wrong_options_are_exit_code_two() -> None:
    """As other commands do."""
    with pytest.raises(SystemExit) as ended:
        main(["promote"])
    assert ended.value.code == 2


def test_the_same_commands_work_on_s3(
    store: ModelStore, s3_place: S3Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Output
) -> None:
    """A version is copied to S3 with its number and digest, listed, promoted and verified there."""
    for name, value in s3_place.server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert run(store, "copy", "lesion7", "2", "--to", s3_place.location) == 0
    for words in (["list"], ["promote", "lesion7", "2"], ["verify", "lesion7", "production"]):
        assert main(["--store", s3_place.location, *words]) == 0
    assert store.open("lesion7", "2").digest in capsys.readouterr().out
