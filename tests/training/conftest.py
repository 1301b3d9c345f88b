"""The smoke chain, run once for all tests, and folders of drawn pictures."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from model_store.store import PRODUCTION, ModelStore, ModelVersion
from training.__main__ import main
from training.config import Config, read_config
from training.generate import drawn_lesions

SMOKE_CONFIG = Path(__file__).parents[2] / "training" / "configs" / "smoke.toml"


@dataclass(frozen=True)
class SmokeChain:
    """Where `python -m training smoke.toml` left its run and its version."""

    store: Path
    run: Path

    @property
    def version(self) -> ModelVersion:
        """The published version, verified."""
        return ModelStore(self.store).verify("smoke", PRODUCTION)


@pytest.fixture(scope="session", autouse=True)
def _drawn_once() -> Iterator[None]:
    """The lesions that every release draws anew, and alike, take a fifth of its time here: once is enough."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.release.drawn_lesions", cache(lambda: tuple(drawn_lesions())))
        yield


@pytest.fixture(scope="session")
def smoke_chain(tmp_path_factory: pytest.TempPathFactory) -> SmokeChain:
    """The whole training job on drawn pictures, once for all tests."""
    folder = tmp_path_factory.mktemp("smoke")
    chain = SmokeChain(folder / "store", folder / "run")
    words = (str(SMOKE_CONFIG), "--store", str(chain.store), "--run", str(chain.run), "--promote", PRODUCTION)
    assert main(words) == 0
    return chain


@pytest.fixture(scope="session")
def smoke_store(smoke_chain: SmokeChain) -> Path:
    """A store with one version of model `smoke`, promoted to production."""
    return smoke_chain.store


@pytest.fixture(scope="session")
def smoke_config() -> Config:
    """The smoke configuration."""
    return read_config(SMOKE_CONFIG)


def continued(folder: Path, start: str, **replaced: str) -> Path:
    """The smoke configuration, starting from run `start`, with one epoch and other changes."""
    text = SMOKE_CONFIG.read_text().replace('name = "smoke"', f'name = "smoke"\nstart_from = "{start}"')
    text = text.replace("{ epochs = 1, pixels = 32 }, { epochs = 5, pixels = 64 }", "{ epochs = 1, pixels = 64 }")
    for before, after in replaced.items():
        text = text.replace(before, after)
    file = folder / "continued.toml"
    file.write_text(text)
    return file


@pytest.fixture(scope="session")
def pupil_chain(smoke_chain: SmokeChain, tmp_path_factory: pytest.TempPathFactory) -> SmokeChain:
    """A run that starts from the smoke run and learns from it, and the version that it gave; once for all tests."""
    folder = tmp_path_factory.mktemp("pupil")
    chain = SmokeChain(folder / "store", smoke_chain.run.with_name("pupil"))
    config = continued(folder, smoke_chain.run.name)
    teaching = f'\n[distillation]\nteachers = ["{smoke_chain.run.name}"]\nweight = 0.5\ntemperature = 2\n'
    config.write_text(config.read_text() + teaching)
    words = (str(config), "--store", str(chain.store), "--run", str(chain.run), "--promote", PRODUCTION)
    assert main(words) == 0
    return chain
