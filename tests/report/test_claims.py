"""The statistics of the claims by hand, and the list of claims."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carot_lib.report.claims import (
    BASELINES,
    Part,
    above_line,
    compare,
    extra_harm_under_shift,
    lead_over_baselines,
    mean_effect_of_scaling,
    mean_gap_to_zero_shot,
    paper_claims,
    protection,
)
from carot_lib.report.inference import MetricLookup
from carot_lib.report.tables import TABLE1_RUNS

SHIFTS = ["v2", "r", "a", "sketch", "objectnet"]


def values(**of_runs: float | np.ndarray) -> MetricLookup:
    """Each run has one number, whatever the metric."""
    return lambda run, dataset, calibration, metric: of_runs[run]


def by_set(**of_runs: tuple[float, float]) -> MetricLookup:
    """Each run has one number in distribution and one under shift."""
    return lambda run, dataset, *key: of_runs[run][dataset == "ood"]


def test_a_comparison_reads_the_run_set_calibration_and_metric_of_its_column():
    asked = []

    def value(*key: str) -> float:
        asked.append(key)
        return {"ft": 0.3, "zs": 0.1}[key[0]]

    [part] = compare("ft", "zs", ood_ece_ts=">")
    assert part.compute(value) == pytest.approx(0.2)
    assert asked == [("ft", "ood", "temperature", "ece"), ("zs", "ood", "temperature", "ece")]
    assert (part.statistic, part.relation) == ("OOD ECE w/ TS: FT - ZS", ">")


def test_extra_harm_is_the_difference_of_two_differences():
    # OOD .22 - .08 = .14, ID .09 - .06 = .03
    part = extra_harm_under_shift("ft", "zs")
    assert part.compute(by_set(ft=(0.09, 0.22), zs=(0.06, 0.08))) == pytest.approx(0.11)


def test_above_the_line_is_measured_at_the_runs_own_id_accuracy():
    # from ZS (.6, .5) to FT (.8, .4) the slope is -1/2; at .7 the line is at .45
    part = above_line("wise_ft", "zs", "ft")
    numbers = {"wise_ft": (0.7, 0.52), "zs": (0.6, 0.5), "ft": (0.8, 0.4)}
    assert part.compute(by_set(**numbers)) == pytest.approx(0.07)
    # without a line: above ZS
    numbers["ft"] = (0.6, 0.4)
    assert part.compute(by_set(**numbers)) == pytest.approx(0.02)


@given(st.floats(-0.5, 1.5), st.floats(0, 1), st.floats(0, 1))
def test_every_point_of_a_line_lies_on_it(share: float, start: float, end: float):
    x, y = (one + share * (other - one) for one, other in ((0.6, 0.8), (start, end)))
    lookup = by_set(wise_ft=(x, y), zs=(0.6, start), ft=(0.8, end))
    assert above_line("wise_ft", "zs", "ft").compute(lookup) == pytest.approx(0, abs=1e-9)


def test_the_line_is_drawn_anew_in_each_replicate():
    zs, ft = np.array([0.6, 0.6]), np.array([0.8, 0.6])  # in the second there is no line
    lookup = {"zs": (zs, zs), "ft": (ft, ft), "wise_ft": (zs + 0.1, zs + 0.2)}
    above = above_line("wise_ft", "zs", "ft").compute(by_set(**lookup))
    np.testing.assert_allclose(above, [0.1, 0.2])


def test_scaling_is_judged_by_its_mean_over_the_rows_of_table_1():
    # .1 without; with it run i has .1 - .01 * i: the mean of i over eight rows is 3.5
    def lookup(run: str, dataset: str, calibration: str, metric: str) -> float:
        return 0.1 - 0.01 * TABLE1_RUNS.index(run) * (calibration == "temperature")

    assert mean_effect_of_scaling("id_ece").compute(lookup) == pytest.approx(-0.035)


def test_the_gap_to_zero_shot_is_that_of_the_mean_of_the_fine_tuned_rows():
    others = dict(zip([*BASELINES, "carot"], np.arange(7) / 10, strict=True))  # mean .3
    assert mean_gap_to_zero_shot("ood_ece_ts").compute(values(zs=0.1, **others)) == pytest.approx(
        0.2
    )


def test_best_baseline_is_the_most_accurate_or_the_least_wrong():
    others = dict(zip(BASELINES, [0.2, 0.3, 0.4, 0.5, 0.6, 0.7], strict=True))
    value = values(carot=0.65, **others)
    assert lead_over_baselines("ood_acc").compute(value) == pytest.approx(-0.05)
    assert lead_over_baselines("ood_ece").compute(value) == pytest.approx(0.45)


def test_best_baseline_is_chosen_anew_in_each_replicate():
    others = {run: np.zeros(2) for run in BASELINES}
    others["ft"], others["flyp"] = np.array([0.7, 0.1]), np.array([0.2, 0.8])
    value = values(carot=np.array([0.75, 0.75]), **others)
    # against .7 (FT), then against .8 (FLYP)
    np.testing.assert_allclose(lead_over_baselines("id_acc").compute(value), [0.05, -0.05])


def test_protection_is_judged_on_one_set():
    part = protection("sketch")
    of_set = {"sketch": {"carot": 0.12, "zs": 0.11}}
    assert part.compute(lambda run, dataset, *key: of_set[dataset][run]) == pytest.approx(0.01)
    assert (part.statistic, part.relation) == ("ECE on sketch: CaRot - ZS", "<~")


def parts() -> list[Part]:
    return [part for claim in paper_claims(SHIFTS) for part in claim.parts]


def test_all_six_claims_and_the_ablation_are_there():
    claims = paper_claims(SHIFTS)
    numbers = [claim.number for claim in claims]
    assert len(set(numbers)) == len(numbers)
    assert {number[0] for number in numbers} == {"1", "2", "3", "4", "5", "6", "A"}
    assert all(claim.parts for claim in claims)
    for claim in claims:
        names = [part.statistic for part in claim.parts]
        assert len(set(names)) == len(names), claim.number


def test_the_name_of_a_part_says_whether_it_concerns_an_ece():
    for part in parts():
        asked = []
        part.compute(lambda *key, asked=asked: asked.append(key) or 0.5)
        assert ("ECE" in part.statistic) == any(key[-1] == "ece" for key in asked)


def test_a_part_for_each_shift_of_the_profile():
    (claim,) = (claim for claim in paper_claims(["rotated", "dark"]) if claim.number == "6f")
    names = [part.statistic for part in claim.parts]
    assert names == ["ECE on rotated: CaRot - ZS", "ECE on dark: CaRot - ZS"]
