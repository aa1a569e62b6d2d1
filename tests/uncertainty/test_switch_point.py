"""From how many labels on one method stays ahead."""

import numpy as np
import pytest

from chainrule.uncertainty import SwitchPoint, switch, switch_point

SIZES = (4, 16, 64, 256)


def curves(rng: np.random.Generator, leads: tuple[float, ...], S: int = 5, M: int = 300) -> tuple[np.ndarray, ...]:
    """Two methods' answers (sizes, S, M) where the second is ahead by `leads` in expectation."""
    difficulty = rng.random(M)
    a = np.stack([difficulty * 0.6 + 0.4 * rng.random((S, M)) < 0.5 for _ in leads])
    b = np.stack([difficulty * 0.6 + 0.4 * rng.random((S, M)) < 0.5 + lead for lead in leads])
    return a, b


def test_a_clear_lead_from_64_on_is_switched_at_64_in_every_resample() -> None:
    a, b = curves(np.random.default_rng(0), (-0.3, -0.3, 0.3, 0.3))
    assert switch_point(SIZES, a, b) == SwitchPoint(64, 64, 64, 0.0)
    assert switch_point(SIZES, b, a) == SwitchPoint(None, None, None, 1.0)


def test_a_lead_that_is_lost_again_does_not_count() -> None:
    a, b = curves(np.random.default_rng(1), (0.3, 0.3, -0.3, 0.3))
    assert switch_point(SIZES, a, b).at == 256
    assert switch_point(SIZES, a, a).at is None  # a tie is no lead


def test_a_slight_lead_has_a_bracket_and_may_never_come() -> None:
    a, b = curves(np.random.default_rng(2), (-0.3, -0.1, 0.005, 0.3))
    found = switch_point(SIZES, a, b)
    assert (found.low, found.high, found.never) == (64, 256, 0.0)
    even = switch_point((4,), *curves(np.random.default_rng(4), (0.0,)))
    assert 0.02 < even.never < 0.98 and even.high is None


def test_the_same_seed_gives_the_same_bracket_and_other_blocks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = curves(np.random.default_rng(3), (-0.1, 0.0, 0.01, 0.05))
    whole = switch_point(SIZES, a, b, seed=1)
    assert switch_point(SIZES, a, b, seed=1) == whole
    monkeypatch.setattr("chainrule.uncertainty.switch.WEIGHTS_IN_MEMORY", 300 * 100)
    pieces = switch_point(SIZES, a, b, seed=1)  # other draws of the same distribution
    assert pieces.at == whole.at and pieces.never == pytest.approx(whole.never, abs=0.03)


def test_draws_of_many_items_are_not_kept_and_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = curves(np.random.default_rng(3), (-0.1, 0.0, 0.01, 0.05))
    kept = switch_point(SIZES, a, b, seed=2)
    switch._drawn_once.cache_clear()
    monkeypatch.setattr(switch, "KEPT_IN_MEMORY", 1000)
    assert switch_point(SIZES, a, b, seed=2) == kept
    assert switch._drawn_once.cache_info().currsize == 0


def test_groups_of_copies_are_items() -> None:
    a, b = curves(np.random.default_rng(5), (-0.1, 0.0, 0.01, 0.05), M=60)
    copied_a, copied_b = (np.repeat(answers, 4, axis=2) for answers in (a, b))
    groups = [str(i // 4).zfill(2) for i in range(240)]
    assert switch_point(SIZES, copied_a, copied_b, groups=groups) == switch_point(SIZES, a, b)


def test_sizes_that_fall_or_do_not_match_are_one_line() -> None:
    table = np.ones((2, 3, 10))
    for sizes in ((16, 4), (4, 4), (4, 16, 64)):
        with pytest.raises(ValueError, match=r"^switch_point: wanted rising sizes and \(sizes, S, M\), got [^\n]*$"):
            switch_point(sizes, table, table)
