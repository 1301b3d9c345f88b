"""`dermserve-models`: one command, one line, one exit code."""

import json
from pathlib import Path

import pytest

from model_store.__main__ import main
from model_store.store import ModelStore
from tests.model_store.test_store import FILES, fields


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    made = ModelStore(tmp_path / "store")
    for _ in range(2):
        made.publish({**FILES, "MODEL_CARD.md": b"# Card"}, fields())
    return made


def run(store: ModelStore, *arguments: str) -> int:
    return main(["--store", str(store.root), *arguments])


def test_list_shows_versions_and_aliases(store: ModelStore, capsys: pytest.CaptureFixture[str]) -> None:
    """Each version has a line; the one that an alias names says so."""
    store.promote("lesion7", "2")
    assert run(store, "list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert "production" in lines[2]


def test_list_as_json(store: ModelStore, capsys: pytest.CaptureFixture[str]) -> None:
    """--json prints the same rows for programs."""
    run(store, "list", "--json")
    assert [row["version"] for row in json.loads(capsys.readouterr().out)] == ["1", "2"]


def test_show_prints_the_card(store: ModelStore, capsys: pytest.CaptureFixture[str]) -> None:
    """`show` prints the model card."""
    assert run(store, "show", "lesion7", "1") == 0
    assert "# Card" in capsys.readouterr().out


def test_promote_and_rollback(store: ModelStore, capsys: pytest.CaptureFixture[str]) -> None:
    """`promote` moves production, `rollback` moves it back; both print where the aliases stand."""
    assert run(store, "promote", "lesion7", "1") == run(store, "promote", "lesion7", "2") == 0
    assert run(store, "rollback", "lesion7") == 0
    assert "previous -> 2, production -> 1" in capsys.readouterr().out


def test_verify_names_the_damaged_file(store: ModelStore, capsys: pytest.CaptureFixture[str]) -> None:
    """A damaged version ends with exit code 1 and one line that names the file."""
    (store.root / "lesion7" / "1" / "golden.npz").write_bytes(b"")
    assert run(store, "verify", "lesion7", "1") == 1
    error = capsys.readouterr().err
    assert "golden.npz" in error
    assert error.count("\n") == 1


def test_a_missing_store_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong --store is told plainly."""
    assert main(["--store", str(tmp_path / "nowhere"), "list"]) == 1
    assert "there is no model store" in capsys.readouterr().err
