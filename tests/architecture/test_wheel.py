"""What is installed from a wheel is complete: the model, the page and the class table travel with the code."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Files of the wheel, built from what git tracks."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*command, str(source)], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_the_shipped_model(names: set[str]) -> None:
    """Every file of every released version is in it."""
    models = ROOT / "model_store" / "models"
    released = {f.relative_to(ROOT).as_posix() for f in models.rglob("*") if f.is_file() and f.name != ".lock"}
    assert released - names == set()


@pytest.mark.parametrize(
    "name", ["service/page/index.html", "service/page/app.js", "model_store/lesions.json", "model_store/gate.toml"]
)
def test_the_wheel_holds_what_the_code_reads(names: set[str], name: str) -> None:
    """Files that are no Python modules."""
    assert name in names


def test_the_wheel_holds_no_tests(names: set[str]) -> None:
    """Only the four packages are installed."""
    assert {Path(n).parts[0] for n in names if ".dist-info" not in n} == {
        "service",
        "training",
        "model_store",
        "loadtests",
    }
