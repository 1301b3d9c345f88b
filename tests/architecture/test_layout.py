"""What is written about the project is true of it."""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from model_store.contract.manifest import Manifest
from model_store.store import SHIPPED
from tests.conftest import ROOT

TEXTS = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "deploy/RUNBOOK.md",
    "loadtests/PERFORMANCE.md",
    "model_store/README.md",
    "training/EXPERIMENTS.md",
]


def test_the_import_contracts_hold() -> None:
    """service and training never import each other; the model store imports neither; the load test only HTTP."""
    finished = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stdout


def test_the_service_imports_no_training_library() -> None:
    """torch, scikit-learn and matplotlib stay out of the serving process."""
    code = "import sys, service.__main__; print(sorted({'torch', 'sklearn', 'matplotlib', 'onnx'} & set(sys.modules)))"
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"


@pytest.mark.parametrize("text", TEXTS)
def test_links_lead_somewhere(text: str) -> None:
    """Every relative link and picture in the documents exists."""
    file = ROOT / text
    targets = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", file.read_text())
    assert [target for target in targets if not (file.parent / target).exists()] == []


def test_every_make_target_in_the_readme_exists() -> None:
    """`make x` in a document is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for text in TEXTS for name in re.findall(r"`make ([a-z]+)", (ROOT / text).read_text())}
    assert named - targets == set()


def test_the_readme_tells_of_the_version_in_production(manifest: Manifest) -> None:
    """The card that it links and its table of figures are those of the version that `make serve` serves."""
    readme = (ROOT / "README.md").read_text()
    assert set(re.findall(r"models/lesion7/(\d+)/MODEL_CARD.md", readme)) == {manifest.version}
    card = (SHIPPED / "lesion7" / manifest.version / "MODEL_CARD.md").read_text()
    table = readme.partition("## How good is it?")[2].partition("## ")[0]
    figures = re.findall(r"(\d\.\d{3}) \((\d\.\d{3})-(\d\.\d{3})\)", table)
    assert len(figures) > 20
    assert [one for one in figures if "{} [{}, {}]".format(*one) not in card] == []


def test_ci_runs_the_developers_commands() -> None:
    """.ci/run is `make check` and `make test`."""
    script = (ROOT / ".ci" / "run").read_text()
    assert "make check" in script
    assert "make test" in script


def test_every_dependency_is_pinned() -> None:
    """Each requirement of each extra stands in requirements.lock, and what is installed is what it says."""
    pinned = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text().split())
    names = {_normal(name): version for name, version in pinned.items()}
    required = [Requirement(text) for text in metadata.requires("dermserve") or []]
    assert [r.name for r in required if _normal(r.name) not in names] == []
    installed = {r.name: metadata.version(r.name).partition("+")[0] for r in required}
    assert {name: version for name, version in installed.items() if names[_normal(name)] != version} == {}


def test_no_machine_paths_in_the_repository() -> None:
    """Nothing tracked names this machine's folders."""
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    texts = [ROOT / f for f in files if not f.endswith((".png", ".jpg", ".onnx", ".npz", ".gz"))]
    needle = "/" + "work/"
    assert [str(f) for f in texts if f.is_file() and needle in f.read_text(errors="ignore")] == []


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
