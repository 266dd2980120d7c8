"""Intervals and the paired test against a plain bootstrap written out, and against what is known beforehand."""

import random

import numpy as np
import pytest

from whisper_recipe.scoring.bootstrap import error_rate_interval, paired_difference

DRAW = random.Random(0)
TOTALS = [DRAW.randint(3, 20) for _ in range(300)]
ERRORS = [sum(DRAW.random() < 0.1 for _ in range(total)) for total in TOTALS]
BETTER = [max(0, errors - (DRAW.random() < 0.4)) for errors in ERRORS]
NOBODY = [None] * 300
SPEAKERS = [f"speaker{number % 15}" for number in range(300)]


def plain_bootstrap(statistic, units, times=4000):
    """2.5 and 97.5 % quantiles of a statistic of units that are drawn one by one."""
    draw = random.Random(1)
    return np.quantile([statistic(draw.choices(units, k=len(units))) for _ in range(times)], [0.025, 0.975])


def test_the_interval_is_that_of_drawing_utterances_one_by_one():
    low, high = plain_bootstrap(
        lambda drawn: sum(errors for errors, _ in drawn) / sum(total for _, total in drawn),
        list(zip(ERRORS, TOTALS, strict=True)),
    )
    found = error_rate_interval(ERRORS, TOTALS, NOBODY)
    assert found.resampled == "utterances"
    assert (found.low, found.high) == (pytest.approx(low, abs=0.002), pytest.approx(high, abs=0.002))


def test_speakers_are_drawn_whole_where_ten_or_more_are_known():
    # Errors that belong to speakers: one in three makes many.
    errors = [total // 2 if number % 15 % 3 == 0 else 0 for number, total in enumerate(TOTALS)]
    of_speakers = [[(errors[n], TOTALS[n]) for n in range(300) if n % 15 == speaker] for speaker in range(15)]
    low, high = plain_bootstrap(
        lambda drawn: sum(e for one in drawn for e, _ in one) / sum(t for one in drawn for _, t in one), of_speakers
    )
    found = error_rate_interval(errors, TOTALS, SPEAKERS)
    assert found.resampled == "speakers"
    # The rate moves in steps: 0.03 for each of the bad speakers that is drawn.
    assert (found.low, found.high) == (pytest.approx(low, abs=0.04), pytest.approx(high, abs=0.04))
    by_utterances = error_rate_interval(errors, TOTALS, NOBODY)
    assert found.high - found.low > 1.5 * (by_utterances.high - by_utterances.low)


@pytest.mark.parametrize("speakers", [[f"speaker{n % 9}" for n in range(300)], [*SPEAKERS[:-1], None]])
def test_utterances_are_drawn_where_speakers_are_few_or_not_all_known(speakers):
    assert error_rate_interval(ERRORS, TOTALS, speakers).resampled == "utterances"


def test_the_same_figures_give_the_same_interval_in_any_order():
    backwards = error_rate_interval(ERRORS[::-1], TOTALS[::-1], NOBODY)
    assert error_rate_interval(ERRORS, TOTALS, NOBODY) == backwards


def test_most_intervals_hold_the_true_rate():
    held = 0
    for number in range(100):
        draw = np.random.default_rng(number)
        totals = draw.integers(3, 20, 200)
        found = error_rate_interval(draw.binomial(totals, 0.1), totals, [None] * 200)
        held += found.low <= 0.1 <= found.high
    assert 88 <= held <= 100


@pytest.mark.parametrize(("errors", "totals"), [([1], [5]), ([1, 2], [0, 0])])
def test_there_is_no_interval_of_one_utterance_or_of_empty_references(errors, totals):
    speakers = [None] * len(errors)
    assert error_rate_interval(errors, totals, speakers) is None
    assert paired_difference(errors, errors, totals, speakers) is None


def test_the_difference_is_that_of_drawing_pairs_one_by_one():
    low, high = plain_bootstrap(
        lambda drawn: sum(b - a for a, b, _ in drawn) / sum(total for _, _, total in drawn),
        list(zip(ERRORS, BETTER, TOTALS, strict=True)),
    )
    found = paired_difference(ERRORS, BETTER, TOTALS, NOBODY)
    assert found.difference == pytest.approx((sum(BETTER) - sum(ERRORS)) / sum(TOTALS))
    assert (found.low, found.high) == (pytest.approx(low, abs=0.002), pytest.approx(high, abs=0.002))
    assert found.p < 0.01


def test_equal_systems_do_not_differ():
    assert paired_difference(ERRORS, ERRORS, TOTALS, NOBODY) == (0, 0, 0, 1)


@pytest.mark.slow
def test_p_is_as_small_as_often_as_it_says_where_only_chance_differs():
    found = []
    for number in range(200):
        draw = np.random.default_rng(number)
        totals = draw.integers(3, 20, 200)
        first, second = draw.binomial(totals, 0.1), draw.binomial(totals, 0.1)
        found.append(paired_difference(first, second, totals, [None] * 200).p)
    assert 2 <= sum(p < 0.05 for p in found) <= 20  # 10 are expected
    assert 75 <= sum(p < 0.5 for p in found) <= 125  # 100 are expected
