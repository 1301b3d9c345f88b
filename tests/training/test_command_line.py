"""`python -m training` says what it does, and ends an expected failure with one message and exit code 2."""

import subprocess
import sys
from pathlib import Path

import pytest

from model_store.store import ModelStore
from tests.training.builders import hospital_folder
from tests.training.conftest import SMOKE_CONFIG, SmokeChain
from training import job
from training.__main__ import EXPECTED_FAILURE, INTERRUPTED, main

ROOT = SMOKE_CONFIG.parents[2]
REAL_DATA_CONFIG = """
name = "clinic"
seed = 1
bootstrap_resamples = 10
[data]
collections = [{ name = "clinic", path = "clinic" }]
cache_pixels = 32
validation_share = 0.2
test_share = 0.2
natural_mix = "clinic"
"""


def words(config: Path, folder: Path, *more: str) -> tuple[str, ...]:
    return (str(config), "--store", str(folder / "store"), "--run", str(folder / "run"), *more)


def clinic_config(folder: Path) -> Path:
    """A configuration that reads real folders: the smoke one without its drawn pictures."""
    text = SMOKE_CONFIG.read_text()
    (folder / "clinic.toml").write_text(REAL_DATA_CONFIG + text[text.index("[network]") :])
    return folder / "clinic.toml"


def test_help_has_examples_and_is_quick() -> None:
    """--help shows commands that can be copied, without loading PyTorch."""
    code = "import sys, training.__main__ as m\ntry: m.main(['--help'])\nfinally: assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert "training/configs/smoke.toml --store" in done.stdout


def test_module_exits_with_2_and_no_traceback(tmp_path: Path) -> None:
    """As its own process: a wrong configuration is one line on standard error."""
    command = [sys.executable, "-m", "training", *words(tmp_path / "absent.toml", tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == EXPECTED_FAILURE
    assert done.stderr.startswith("error: cannot read the configuration")
    assert done.stderr.count("\n") == 1


def test_existing_run_is_not_overwritten(smoke_chain: SmokeChain, capsys: pytest.CaptureFixture[str]) -> None:
    """A run folder with a checkpoint needs --resume or another --run."""
    run = ("--store", str(smoke_chain.store), "--run", str(smoke_chain.run))
    assert main((str(SMOKE_CONFIG), *run)) == EXPECTED_FAILURE
    assert "add --resume to continue it, or choose another --run" in capsys.readouterr().err


def test_missing_data_folder_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A configuration that reads real pictures says that --data is needed."""
    assert main(words(clinic_config(tmp_path), tmp_path)) == EXPECTED_FAILURE
    assert "--data is needed" in capsys.readouterr().err


def test_problems_in_the_data_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every problem stands on its own line of the one message, and no training has started."""
    hospital_folder(tmp_path / "clinic", [{"image_id": "a", "dx": "wart"}, {"image_id": "b", "dx": ""}])
    assert main(words(clinic_config(tmp_path), tmp_path, "--data", str(tmp_path))) == EXPECTED_FAILURE
    message = capsys.readouterr().err
    assert "2 problem(s) in the data" in message
    assert "a: unknown class 'wart'" in message
    assert "b: no diagnosis" in message
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_too_few_pictures_to_choose_a_threshold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without malignant pictures in every part there is nothing to choose or judge a threshold on."""
    hospital_folder(tmp_path / "clinic", [{"image_id": f"i{n}", "dx": "nv"} for n in range(9)])
    assert main(words(clinic_config(tmp_path), tmp_path, "--data", str(tmp_path))) == EXPECTED_FAILURE
    assert "needs malignant and benign pictures" in capsys.readouterr().err


def test_ctrl_c_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C is no crash: finished epochs are kept and the message names --resume."""

    def interrupted(_: job.Order) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "train_and_publish", interrupted)
    assert main(words(SMOKE_CONFIG, tmp_path)) == INTERRUPTED
    assert "--resume goes on" in capsys.readouterr().err


@pytest.mark.parametrize("alias", ["previous", "3", "No Name"])
def test_bad_alias_is_refused_before_hours_of_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], alias: str
) -> None:
    """What the store would refuse at the end is refused at once."""
    with pytest.raises(SystemExit, match="2"):
        main(words(SMOKE_CONFIG, tmp_path, "--promote", alias))
    assert alias in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_promoted_alias_points_to_the_version(smoke_store: Path) -> None:
    """--promote production ends with the alias on the new version."""
    assert ModelStore(smoke_store).aliases("smoke") == {"production": "1"}
