"""Service times start from guesses and measurements and follow what is observed."""

import pytest

from service.service_times import ServiceTimes


def test_decoding_is_learnt_by_format_and_size() -> None:
    """Observed JPEGs of one size change the estimate for that size and format alone."""
    times = ServiceTimes({1: 0.005})
    other_size, other_format = times.decode_seconds("JPEG", 12_000_000), times.decode_seconds("PNG", 270_000)
    for _ in range(100):
        times.observe_decode("JPEG", 270_000, 250_000, 0.004)
    assert times.decode_seconds("JPEG", 270_000) == pytest.approx(0.004, rel=0.01)
    assert times.decode_seconds("JPEG", 12_000_000) == other_size
    assert times.decode_seconds("PNG", 270_000) == other_format


def test_one_bad_moment_is_not_believed() -> None:
    """A decoder that stood still for a second changes the estimate by a fifth; one that is slow now, altogether."""
    times = ServiceTimes({1: 0.005})
    for _ in range(100):
        times.observe_decode("JPEG", 270_000, 250_000, 0.004)
    times.observe_decode("JPEG", 270_000, 250_000, 1.0)
    assert times.decode_seconds("JPEG", 270_000) < 0.005
    for _ in range(100):
        times.observe_decode("JPEG", 270_000, 250_000, 0.1)
    assert times.decode_seconds("JPEG", 270_000) == pytest.approx(0.1, rel=0.01)


def test_the_work_in_a_body_is_learnt_before_it_is_read() -> None:
    """From its length alone: observed seconds a byte, and the network."""
    times = ServiceTimes({1: 0.005})
    for _ in range(100):
        times.observe_decode("JPEG", 270_000, 250_000, 0.004)
    assert times.cost_of_bytes(500_000).line_seconds == pytest.approx(0.005 + 0.008, rel=0.01)


@pytest.mark.parametrize(
    ("measured", "limit", "best"),
    [
        ({1: 0.010, 2: 0.020, 4: 0.040}, 4, 1),  # no gain: small batches answer sooner
        ({1: 0.010, 2: 0.012, 4: 0.016, 8: 0.032}, 8, 4),  # 8 is no faster than 4
        ({1: 0.010, 2: 0.012, 4: 0.016, 8: 0.032}, 2, 2),  # never above the limit
        ({1: 0.0100, 2: 0.0184}, 2, 1),  # within 10 %
        ({1: 0.0100, 2: 0.0180}, 2, 2),  # beyond
    ],
)
def test_the_best_batch_is_the_smallest_that_is_as_good(measured: dict[int, float], limit: int, best: int) -> None:
    """Seconds for each picture decide; within 10 % the smaller size wins."""
    assert ServiceTimes(measured).best_batch_size(limit) == best


def test_the_best_batch_follows_what_is_observed() -> None:
    """A batch of 4 that has become as slow as four single ones is given up."""
    times = ServiceTimes({1: 0.010, 4: 0.020})
    assert times.best_batch_size(4) == 4
    for _ in range(100):
        times.observe_inference(4, 0.042)
    assert times.best_batch_size(4) == 1
    assert times.inference_seconds(4) == pytest.approx(0.042, rel=0.01)


def test_sizes_between_the_measured_ones_go_at_the_nearest_pace() -> None:
    """Three pictures at the pace of a batch of 2 or 4."""
    assert ServiceTimes({1: 0.01, 4: 0.02}).inference_seconds(3) == pytest.approx(0.015)


def test_a_picture_costs_its_share_of_the_best_batch_and_its_decoding() -> None:
    """Under load batches are as large as pays; a fast decoder's work is done in the line, a slow one's before it."""
    times = ServiceTimes({1: 0.010, 4: 0.024, 8: 0.080})
    for _ in range(100):
        times.observe_decode("JPEG", 270_000, 250_000, 0.004)
        times.observe_decode("PNG", 12_000_000, 20_000_000, 0.4)
    small, large = times.cost("JPEG", 270_000, explained=False), times.cost("PNG", 12_000_000, explained=False)
    assert (small.line_seconds, small.slow_seconds) == (pytest.approx(0.006 + 0.004, rel=0.01), 0)
    assert (large.line_seconds, large.slow_seconds) == (pytest.approx(0.006), pytest.approx(0.4, rel=0.01))


def test_large_pictures_of_slow_formats_go_to_the_slow_lane() -> None:
    """A PNG of 12 megapixels does, a small one and an ordinary JPEG of 3 megapixels do not."""
    times = ServiceTimes({1: 0.005})
    assert times.cost("PNG", 12_000_000, explained=False).slow_seconds > 0.05
    assert times.cost("PNG", 270_000, explained=False).slow_seconds == 0
    assert times.cost("JPEG", 3_000_000, explained=False).slow_seconds == 0


def test_an_explanation_costs_what_it_was_seen_to_cost() -> None:
    """On top of a request without one."""
    times = ServiceTimes({1: 0.005})
    for _ in range(100):
        times.observe_explanation(0.03)
    plain, explained = (times.cost("JPEG", 270_000, explained=asked).line_seconds for asked in (False, True))
    assert explained - plain == pytest.approx(0.03, rel=0.01)


def test_small_files_of_large_pictures_do_not_shut_the_door_to_others() -> None:
    """A kilobyte that decodes for a third of a second is no measure of a photograph's 270 kB."""
    times = ServiceTimes({1: 0.005})
    for _ in range(20):
        times.observe_decode("PNG", 6_000_000, 1_000, 0.3)
    assert times.cost_of_bytes(270_000).line_seconds < 0.06
