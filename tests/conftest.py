"""Fixtures of all tests: the real service as its own process, and generated pictures."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model_store.contract.manifest import Manifest
from model_store.store import PRODUCTION, SHIPPED, ModelStore

ROOT = Path(__file__).parents[1]
# Folders whose tests compute, and wait for nobody: under `make test` they run beside the others, behind them.
_COMPUTING = ("training", "model_store", "simulation", "architecture")
_COMPUTING_SECONDS = 900  # for one of them: it gets what the others leave it
ENGINE_CACHE = ROOT / ".pytest_cache" / "engine"  # not the user's own


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that gets what others leave it may take longer."""
    for item in items:
        if _computes(item.nodeid):
            item.add_marker(pytest.mark.timeout(_COMPUTING_SECONDS))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Two groups for two workers of pytest-xdist: nothing that asks a service runs beside another such test."""
    from xdist.scheduler import LoadScopeScheduling

    class TwoGroups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "computing" if _computes(nodeid) else "serving"

    return TwoGroups(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A training never takes a core from a service that is asked meanwhile, nor do its children."""
    if "PYTEST_XDIST_WORKER" in os.environ and _computes(item.nodeid) and sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, 0, 19)


def _computes(nodeid: str) -> bool:
    return nodeid.removeprefix("tests/").partition("/")[0] in _COMPUTING


@dataclass
class RunningService:
    """A service process; `log` grows with what it writes to standard error."""

    url: str
    process: subprocess.Popen[str]
    log: Path

    def stop(self) -> int:
        """SIGTERM, as an orchestrator does; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def clean_environment(**settings: str) -> dict[str, str]:
    """The environment without any DERMSERVE_ variable but those given; engines are measured once for all tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DERMSERVE_")}
    return kept | {"DERMSERVE_ENGINE_CACHE": str(ENGINE_CACHE)} | settings


@contextmanager
def running_service(log: Path, *options: str) -> Iterator[RunningService]:
    """`python -m service` on a free port, stopped at the end."""
    command = [sys.executable, "-m", "service", "--port", "0", *options]
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT, env=clean_environment()
        )
    try:
        assert process.stdout
        line = process.stdout.readline()
        assert "http://" in line, f"the service did not start: {log.read_text()}"
        yield RunningService(line.split()[-1], process, log)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)
        assert process.stdout
        process.stdout.close()


StartService = Callable[..., RunningService]


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """One service with the shipped model, shared by all tests that only talk to it."""
    with running_service(tmp_path_factory.mktemp("service") / "log") as running:
        yield running


@pytest.fixture(scope="session")
def service_url(service: RunningService) -> str:
    """Base URL of the shared service."""
    return service.url


@pytest.fixture(scope="session")
def manifest() -> Manifest:
    """The shipped version's manifest."""
    return ModelStore(SHIPPED).open("lesion7", PRODUCTION).manifest


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The real pictures; the test is skipped where they are not."""
    folder = Path(os.environ.get("DERMSERVE_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "ham10000").is_dir():
        pytest.skip("needs the real pictures: set DERMSERVE_DATA to a folder with ham10000/")
    return folder


def lesion_picture(width: int = 600, height: int = 450, seed: int = 0) -> Image.Image:
    """A generated skin-coloured picture with a darker blob."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    distance = np.hypot((x - width / 2) / width, (y - height / 2) / height)
    blob = np.clip((0.25 - distance) * 12, 0, 1)[..., None]
    skin, lesion = np.array([225.0, 170.0, 150.0]), np.array([110.0, 60.0, 45.0])
    pixels = skin * (1 - blob) + lesion * blob + random.normal(0, 6, (height, width, 1))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, image_format: str = "JPEG", **options: object) -> bytes:
    """The picture as a file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()
