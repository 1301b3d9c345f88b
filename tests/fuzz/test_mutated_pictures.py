"""No file, however damaged, ends otherwise than documented. 50,000 of them: `python -m tests.fuzz`."""

from tests.conftest import RunningService
from tests.fuzz.judges import ANSWERED
from tests.fuzz.mutations import mutant, parts_of
from tests.fuzz.originals import opens, originals
from tests.fuzz.trial import Findings, Trial, run


def outcome(trial: Trial) -> Findings:
    *_, findings = run(trial)
    return findings


def test_the_decoder_survives_mutated_pictures() -> None:
    """1,500 mutants of all formats: no crash, no hang, bounded memory, only documented refusals."""
    findings = outcome(Trial(seed=1, numbers=range(1500), threads=2, wall_limit_seconds=60))
    assert findings.faults == []
    assert findings.pictures == 1500
    assert set(findings.results) == {
        ANSWERED,
        "400 invalid_image",
        "413 payload_too_large",
        "415 unsupported_format",
    }


def test_the_service_survives_mutated_pictures(service: RunningService) -> None:
    """300 mutants over HTTP: each gets its answer, and the service goes on."""
    trial = Trial(2, range(300), 4, 60, service.url, service.process.pid)
    findings = outcome(trial)
    assert findings.faults == []
    assert findings.pictures == 300
    assert service.process.poll() is None


def test_a_mutant_can_be_made_again() -> None:
    """Seed and number are enough; another number gives another picture."""
    assert mutant(1, 7) == mutant(1, 7)
    assert len({mutant(1, number).body for number in range(50)}) == 50


def test_originals_are_whole_pictures_of_all_formats() -> None:
    """Mutations begin with files that open, and their parts make them up again."""
    assert {original.image_format for original in originals()} == {"JPEG", "PNG", "WEBP", "TIFF", "BMP"}
    for original in originals():
        assert opens(original)
        parts = parts_of(original.body, original.image_format)
        assert b"".join(parts) == original.body
        assert len(parts) > 1


def test_a_fault_is_reported_with_its_picture() -> None:
    """A service that is not there: every picture is a fault that names its number, none is passed over."""
    findings = outcome(Trial(1, range(3), 1, 5, url="http://127.0.0.1:9"))
    assert len(findings.faults) == 3
    assert all(f"picture {number}: " in fault for number, fault in enumerate(findings.faults))


def test_mutants_reach_the_pixels() -> None:
    """A fair share of mutants is still decoded: the damage lies behind the first checks too."""
    findings = outcome(Trial(seed=3, numbers=range(300), threads=2, wall_limit_seconds=60))
    assert findings.results[ANSWERED] > 30
