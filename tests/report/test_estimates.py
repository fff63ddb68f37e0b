"""Estimates from saved evaluations of small arrays, and from the published tables."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from carot_lib.evaluation import COLUMNS
from carot_lib.report.estimates import published_estimator, saved_estimator
from carot_lib.report.inference import Statistic

PAPER = Path(__file__).parents[2] / "data" / "paper"


def number(run: str, column: str) -> Statistic:
    return lambda lookup: lookup(run, *COLUMNS[column])


def saved(run: str, seed: int, **numbers: tuple[float, list[float]]) -> dict:
    """The accuracies of a run on sets: value and replicates."""
    arrays = {}
    for name, (value, replicates) in numbers.items():
        arrays[f"{name}|none|accuracy"] = np.array(replicates)
        arrays[f"{name}|none|accuracy|value"] = np.array(value)
    return {(run, seed): arrays}


def test_a_number_is_a_mean_over_the_shifts_and_the_seeds():
    estimate = saved_estimator(
        saved("ft", 0, v2=(0.2, [0.1, 0.3]), r=(0.6, [0.5, 0.7]))
        | saved("ft", 3, v2=(0.4, [0.3, 0.5]), r=(0.6, [0.5, 0.7])),
        ["v2", "r"],
    )
    # seeds .4 and .5: mean .45, variance .005, of the mean .0025; the images move both by +-.1,
    # the same, so without an interaction: variance .01
    found = estimate(number("ft", "ood_acc"))
    assert found.value == pytest.approx(0.45)
    assert found.error == pytest.approx(np.sqrt(0.0025 + 0.01))
    assert found.df == pytest.approx(5)  # (2 - 1) / (.0025 / .0125)


def test_runs_are_paired_by_seed_and_by_resample():
    estimate = saved_estimator(
        saved("zs", 0, id_test=(0.5, [0.2, 0.8]))
        | saved("zs", 1, id_test=(0.7, [0.4, 1.0]))
        | saved("ft", 0, id_test=(0.6, [0.3, 0.9]))
        | saved("ft", 1, id_test=(0.8, [0.5, 1.1])),
        [],
    )
    # ft is better by .1 with each seed, on each resample: nothing else is left
    found = estimate(lambda lookup: number("ft", "id_acc")(lookup) - number("zs", "id_acc")(lookup))
    assert found.value == pytest.approx(0.1)
    assert found.error == pytest.approx(0, abs=1e-9)


def test_a_statistic_is_taken_for_each_seed_before_the_mean():
    runs = saved("a", 0, id_test=(0.1, [0.1])) | saved("a", 1, id_test=(0.3, [0.3]))
    runs |= saved("b", 0, id_test=(0.3, [0.3])) | saved("b", 1, id_test=(0.1, [0.1]))
    found = saved_estimator(runs, [])(
        lambda lookup: np.maximum(*(number(run, "id_acc")(lookup) for run in ("a", "b")))
    )
    assert found.value == pytest.approx(0.3)  # the best of each seed; of the means it is .2


def test_a_run_that_was_not_run_makes_an_estimate_unknown():
    estimate = saved_estimator(saved("zs", 0, id_test=(0.5, [0.4, 0.6])), [])
    found = estimate(
        lambda lookup: np.minimum.reduce([number(r, "id_acc")(lookup) for r in ("zs", "flyp")])
    )
    assert np.isnan(found[:2]).all()


def test_a_number_that_is_not_saved_is_named():
    estimate = saved_estimator(saved("zs", 4, id_test=(0.5, [0.4, 0.6])), [])
    with pytest.raises(ValueError, match=r"no id_test\|none\|nll\|value in .* zs, seed 4: run"):
        estimate(number("zs", "id_nll"))


def test_published_numbers_have_the_errors_of_their_test_sets():
    estimate = published_estimator(PAPER)
    # ID, 50,000 images, accuracy .8153: sqrt(.8153 * .1847 / 50000) = .001735; so has the ECE
    found = estimate(number("ft", "id_acc"))
    assert found == (0.8153, pytest.approx(0.001735, abs=1e-6), np.inf)
    assert estimate(number("ft", "id_ece")) == (0.0884, pytest.approx(found.error), np.inf)
    # OOD: the sum of 1 / n is .00034015, so the variance of the mean of five sets is
    # .584 * .416 * .00034015 / 25 = 3.3055e-6
    found = estimate(number("zs", "ood_ece_ts"))
    assert found == (0.0748, pytest.approx(0.0018181, abs=1e-6), np.inf)
    assert estimate(number("carot_frozen", "id_acc")).value == 0.7848


def test_errors_of_published_numbers_add_up():
    estimate = published_estimator(PAPER)
    one, other = number("ft", "id_acc"), number("flyp", "id_acc")
    errors = [estimate(statistic).error for statistic in (one, other)]
    found = estimate(lambda lookup: one(lookup) - 2 * other(lookup))
    assert found.value == pytest.approx(0.8153 - 2 * 0.8258)
    assert found.error == pytest.approx(np.hypot(errors[0], 2 * errors[1]))
    # two accuracies and their product: p dq + q dp
    product = estimate(lambda lookup: one(lookup) * other(lookup))
    assert product.error == pytest.approx(np.hypot(0.8258 * errors[0], 0.8153 * errors[1]))


def test_what_is_not_published_is_unknown():
    estimate = published_estimator(PAPER)
    for run, column in (
        ("ft", "id_nll"),
        ("carot_frozen", "id_ece_ts"),
        ("linear_probe", "id_acc"),
    ):
        assert np.isnan(estimate(number(run, column))[:2]).all()
    best = estimate(
        lambda lookup: np.minimum.reduce([number(r, "id_nll")(lookup) for r in ("zs", "ft")])
    )
    assert np.isnan(best.value)


def test_the_papers_test_sets_are_one_for_id_and_five_shifts():
    table = pd.read_csv(PAPER / "test_sets.csv")
    assert table["images"].tolist() == [50_000, 10_000, 30_000, 7_500, 50_889, 18_574]
    assert table["dataset"][0] == "id_test"
