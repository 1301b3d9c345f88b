"""The configuration is checked when it is read; what decides the weights decides the training digest."""

from pathlib import Path

import pytest

from tests.training.conftest import SMOKE_CONFIG
from training.config import Config, read_config
from training.errors import ConfigError


def changed(tmp_path: Path, old: str, new: str) -> Path:
    text = SMOKE_CONFIG.read_text()
    assert old in text
    (tmp_path / "changed.toml").write_text(text.replace(old, new))
    return tmp_path / "changed.toml"


@pytest.mark.parametrize("file", sorted(SMOKE_CONFIG.parent.glob("*.toml")), ids=lambda file: file.stem)
def test_shipped_configurations_are_valid(file: Path) -> None:
    """Every file in training/configs can be read."""
    assert read_config(file).train.epochs > 0


def test_mistyped_keys_are_all_named(tmp_path: Path) -> None:
    """A mistyped key is refused with its place, and so is a wrong value, in one error."""
    file = changed(tmp_path, "weight_decay = 0.01", "weight_decays = 0.01\nema_decay = 1.5 #")
    file.write_text(file.read_text().replace("ema_decay = 0.8", ""))
    with pytest.raises(ConfigError, match=r"(?s)train.weight_decay: .*train.ema_decay: .*train.weight_decays: "):
        read_config(file)


@pytest.mark.parametrize(("content", "reason"), [(b"name = ", "is not TOML"), (b"\xff", "is not UTF-8 text")])
def test_damaged_file_is_one_sentence(tmp_path: Path, content: bytes, reason: str) -> None:
    """A file that is no TOML is an expected failure."""
    (tmp_path / "bad.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=reason):
        read_config(tmp_path / "bad.toml")


def test_natural_mix_must_be_a_collection(tmp_path: Path) -> None:
    """The clinic's class mix has to come from a collection that is read."""
    with pytest.raises(ConfigError, match="names none of the collections"):
        read_config(changed(tmp_path, 'natural_mix = "generated"', 'natural_mix = "clinic"'))


@pytest.mark.parametrize(
    ("old", "new", "retrains"),
    [
        ("learning_rate = 7e-4", "learning_rate = 8e-4", True),
        ("seed = 7", "seed = 8", True),
        ("malignant_sensitivity = 0.95", "malignant_sensitivity = 0.9", False),
        ('resize = "squash"', 'resize = "pad"', False),
    ],
)
def test_training_digest_covers_what_decides_the_weights(
    tmp_path: Path, smoke_config: Config, old: str, new: str, retrains: bool
) -> None:
    """A finished training is reused when only evaluation or export change, and only then."""
    other = read_config(changed(tmp_path, old, new))
    assert other.digest != smoke_config.digest
    assert (other.training_digest != smoke_config.training_digest) is retrains


def test_resolution_follows_the_stages(smoke_config: Config) -> None:
    """Each epoch has its stage's resolution, and none lies past the last."""
    assert [smoke_config.train.pixels_at(epoch) for epoch in range(3)] == [32, 64, 64]
    with pytest.raises(IndexError):
        smoke_config.train.pixels_at(smoke_config.train.epochs)
