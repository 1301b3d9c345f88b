"""Settings come from the environment or from options, and a wrong one is never ignored."""

from pathlib import Path

import pytest

from service.settings import InvalidSettingsError, Settings, read_settings


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"DERMSERVE_{name.upper()}", raising=False)


def test_defaults_are_the_documented_ones() -> None:
    """Host, port, model, alias and deadline as DESIGN.md states them."""
    settings = read_settings([], {})
    assert (settings.host, settings.port, settings.model, settings.alias, settings.deadline_seconds) == (
        "127.0.0.1",
        8000,
        "lesion7",
        "production",
        3.0,
    )


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """DERMSERVE_PORT sets the port."""
    monkeypatch.setenv("DERMSERVE_PORT", "9000")
    assert read_settings([], {"DERMSERVE_PORT": "9000"}).port == 9000


def test_options_win(monkeypatch: pytest.MonkeyPatch) -> None:
    """--deadline-seconds stands over DERMSERVE_DEADLINE_SECONDS."""
    monkeypatch.setenv("DERMSERVE_DEADLINE_SECONDS", "2")
    assert read_settings(["--deadline-seconds", "1.5"], {}).deadline_seconds == 1.5


def test_an_unknown_variable_is_refused() -> None:
    """A mistyped name ends the start and lists the known ones."""
    with pytest.raises(InvalidSettingsError, match="DERMSERVE_DEADLINE_SECOND;.*DERMSERVE_DEADLINE_SECONDS"):
        read_settings([], {"DERMSERVE_DEADLINE_SECOND": "2"})


def test_the_tests_own_variable_is_no_mistake() -> None:
    """DERMSERVE_DATA, which tells the tests where the pictures are, does not stop the service."""
    assert read_settings([], {"DERMSERVE_DATA": "somewhere"}).port == 8000


def test_variant_and_prevalence_are_options() -> None:
    """By default the variant is chosen at load and probabilities are left as they are."""
    settings = read_settings([], {})
    assert (settings.variant, settings.prevalence) == ("auto", None)
    settings = read_settings(["--variant", "fp32", "--prevalence", "0.02"], {})
    assert (settings.variant, settings.prevalence) == ("fp32", 0.02)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "70000"),
        ("DEADLINE_SECONDS", "0"),
        ("MAX_BATCH_SIZE", "x"),
        ("VARIANT", "int4"),
        ("PREVALENCE", "0"),
        ("PREVALENCE", "1"),
        ("PREVALENCE", "nan"),
    ],
)
def test_a_wrong_value_names_the_setting(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """The message says which setting and why."""
    monkeypatch.setenv(f"DERMSERVE_{name}", value)
    with pytest.raises(InvalidSettingsError, match=name.lower()):
        read_settings([], {})


def test_settings_cannot_change() -> None:
    """They are read once."""
    with pytest.raises(ValueError, match="frozen"):
        read_settings([], {}).port = 1  # type: ignore[misc]


def test_every_setting_stands_in_the_readme() -> None:
    """What can be set is written down."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    missing = [name for name in Settings.model_fields if f"DERMSERVE_{name.upper()}" not in readme]
    assert missing == []
