"""A publish is whole or not there: killed at every step, at any moment, and with others publishing at the same time."""

import random
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from model_store.errors import StoreUnavailableError
from model_store.store import ModelStore
from tests.model_store.builders import FILES, fields
from tests.model_store.places import DirectoryPlace, Place, S3Place
from tests.model_store.processes import Target, kill_at_random

STEPS = {"directory": 5 + len(FILES), "s3": 4 + len(FILES)}


@pytest.fixture
def target(place: Place, tmp_path: Path) -> Target:
    return _target(place, tmp_path)


def _target(place: Place, folder: Path) -> Target:
    environment = place.server.environment if isinstance(place, S3Place) else {}
    return Target(place.location, folder / "publisher-cache", environment)


def _finish(target: Target, **death: int) -> int | None:
    publisher = target.publisher(**death)
    publisher.join()
    return publisher.exitcode


def test_killed_at_every_step(target: Target, place: Place) -> None:
    """SIGKILL at each step: readers see whole versions 1, 2, ... only, and the next publish succeeds."""
    killed = 0
    while _finish(target, die_at_step=killed + 1) == -signal.SIGKILL:
        killed += 1
        reader = target.reader()
        reader.join()
        assert reader.exitcode == 0
    assert killed == STEPS["s3" if isinstance(place, S3Place) else "directory"]
    versions = place.store().versions("lesion7")
    assert versions == [str(n + 1) for n in range(len(versions))]


@pytest.mark.slow
def test_killed_at_every_writing_call(directory: DirectoryPlace, tmp_path: Path) -> None:
    """The same between the steps, in a directory: at every call that changes the file system."""
    target, killed = _target(directory, tmp_path), 0
    while _finish(target, die_at_call=killed + 1) == -signal.SIGKILL:
        killed += 1
        store = directory.store()
        for version in store.versions("lesion7") if (directory.root / "lesion7").is_dir() else []:
            store.verify("lesion7", version)
    assert killed > STEPS["directory"]
    assert not [file for file in directory.everything() if ".staging" in file]


@pytest.mark.slow
def test_killed_at_any_moment(target: Target) -> None:
    """Killed at random times; `python -m tests.model_store.crash --runs 200` does it longer."""
    killed, finished = kill_at_random(target, 15, random.Random(1))
    assert killed + finished == 15


def test_eight_publishers_at_once(target: Target, place: Place) -> None:
    """Eight processes make the eight distinct whole versions 1 to 8."""
    publishers = [target.publisher() for _ in range(8)]
    for publisher in publishers:
        publisher.join()
    assert [publisher.exitcode for publisher in publishers] == [0] * 8
    store = place.store()
    assert store.versions("lesion7") == [str(n) for n in range(1, 9)]
    assert {store.verify("lesion7", v).manifest.version for v in store.versions("lesion7")} == set(
        map(str, range(1, 9))
    )


def test_the_next_publish_clears_what_the_dead_left(directory: DirectoryPlace, tmp_path: Path) -> None:
    """In a directory, the lock tells who is alive: leftovers go with the very next publish."""
    assert _finish(_target(directory, tmp_path), die_at_step=3) == -signal.SIGKILL
    assert any(".staging" in file for file in directory.everything())
    directory.store().publish(FILES, fields())
    assert not any(".staging" in file for file in directory.everything())


@pytest.mark.slow
def test_on_s3_the_abandoned_is_cleared_by_its_age(s3_place: S3Place, tmp_path: Path) -> None:
    """On S3, what nobody has added to for the set time goes with the next publish; before that it stays."""
    target = _target(s3_place, tmp_path)
    assert _finish(target, die_at_step=3) == -signal.SIGKILL
    left = s3_place.everything()
    assert _finish(target) == 0
    assert left < s3_place.everything()
    time.sleep(9)  # the server's clock decides, in whole seconds
    assert _finish(replace(target, abandoned_after_seconds=6.0)) == 0
    assert not left & s3_place.everything()
    assert s3_place.store().verify("lesion7", "1")


def test_a_living_publisher_is_not_cleared_away(s3_place: S3Place) -> None:
    """While one is between two files, another publishes and clears up: both versions are whole."""
    waiting, go_on = threading.Event(), threading.Event()

    def pause(step: str) -> None:
        if step == "manifest stored" and not waiting.is_set():
            waiting.set()
            assert go_on.wait(60)

    slow = threading.Thread(target=s3_place.store().publish, args=(FILES, fields(), pause))
    slow.start()
    assert waiting.wait(60)
    s3_place.store().publish(FILES, fields())
    go_on.set()
    slow.join()
    store = s3_place.store()
    assert [store.verify("lesion7", v).manifest.version for v in store.versions("lesion7")] == ["1", "2"]


def test_a_publisher_that_may_be_held_for_dead_gives_up(
    s3_place: S3Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who stored nothing for half the set time does not make anything visible any more."""
    for name, value in s3_place.server.environment.items():
        monkeypatch.setenv(name, value)
    store = ModelStore(s3_place.location, tmp_path / "cache", abandoned_after_seconds=1.0)
    with pytest.raises(StoreUnavailableError, match="took longer than"):
        store.publish(FILES, fields(), on_step=lambda _: time.sleep(0.6))
    assert not any("versions/" in file for file in s3_place.everything())
