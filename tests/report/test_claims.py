"""Verdicts from intervals, and the paper's claims judged by the paper's own numbers."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carot_lib.layout import Layout
from carot_lib.report.claims import (
    BASELINES,
    CLAIMS,
    against_best_baseline,
    difference,
    mean_accuracy_gain,
    scaling,
)
from carot_lib.report.verdicts import (
    MARGIN,
    Claim,
    Value,
    all_of,
    differences,
    judge,
    resample_seeds,
    verdict,
)
from carot_lib.stages.replicate import published

PAPER = published(Layout(Path(__file__).parents[2], "miniature"))


def values(**of_runs: float) -> Value:
    """Each run has one number, whatever is asked of it."""
    return lambda run, dataset, metric, calibration: of_runs[run]


@pytest.mark.parametrize(
    ("relation", "low", "high", "expected"),
    [
        (">", 0.01, 0.03, "holds"),
        (">", -0.01, 0.03, "undecided"),
        (">", -0.03, -0.01, "does not hold"),
        ("<", -0.03, -0.01, "holds"),
        ("<", -0.01, 0.03, "undecided"),
        ("<", 0.01, 0.03, "does not hold"),
        (">", 0.0, 0.03, "undecided"),  # an interval that touches zero contains it
        ("<", -0.03, 0.0, "undecided"),
        ("~", -0.01, 0.01, "holds"),
        ("~", -0.005, 0.02, "undecided"),
        ("~", 0.011, 0.02, "does not hold"),
        ("~", -0.02, -0.011, "does not hold"),
    ],
)
def test_verdict_is_read_from_the_interval(relation, low, high, expected):
    assert MARGIN == 0.01
    assert verdict(relation, low, high) == expected


@given(st.floats(-1, 1), st.floats(0, 1))
def test_more_and_less_are_mirror_images(low: float, width: float):
    high = low + width
    assert verdict(">", low, high) == verdict("<", -high, -low)


def test_a_claim_needs_all_its_parts():
    assert all_of(["holds", "holds"]) == "holds"
    assert all_of(["holds", "undecided"]) == "undecided"
    assert all_of(["undecided", "does not hold", "holds"]) == "does not hold"


def test_a_difference_asks_for_the_run_set_metric_and_calibration_it_names():
    asked = []

    def value(*place: str) -> float:
        asked.append(place)
        return {"ft": 0.3, "zs": 0.1}[place[0]]

    part = difference("ft", "zs", "ood", "ece", ">", "temperature")
    assert part.of(value) == pytest.approx(0.2)
    assert asked == [("ft", "ood", "ece", "temperature"), ("zs", "ood", "ece", "temperature")]
    assert part.statistic == "OOD ECE w/ TS: FT - ZS"


def test_scaling_compares_a_run_with_itself():
    # .05 with temperature scaling minus .08 without
    with_and_without = {"temperature": 0.05, "none": 0.08}
    part = scaling("ft", "id_test")
    assert part.of(lambda run, dataset, metric, c: with_and_without[c]) == pytest.approx(-0.03)


def test_trade_off_is_the_mean_of_both_gains():
    # ID .80 - .81 = -.01, OOD .64 - .57 = .07, mean .03
    accuracy = {
        ("wise_ft", "id_test"): 0.80,
        ("ft", "id_test"): 0.81,
        ("wise_ft", "ood"): 0.64,
        ("ft", "ood"): 0.57,
    }
    part = mean_accuracy_gain("wise_ft", "ft")
    assert part.of(lambda run, dataset, m, c: accuracy[run, dataset]) == pytest.approx(0.03)


def test_best_baseline_is_the_most_accurate_or_the_least_wrong():
    others = dict(zip(BASELINES, [0.2, 0.3, 0.4, 0.5, 0.6, 0.7], strict=True))
    value = values(carot=0.65, **others)
    assert against_best_baseline("ood", "accuracy").of(value) == pytest.approx(-0.05)
    assert against_best_baseline("ood", "ece").of(value) == pytest.approx(0.45)


def test_best_baseline_is_chosen_anew_in_each_replicate():
    others = {run: np.zeros(2) for run in BASELINES}
    others["ft"], others["flyp"] = np.array([0.7, 0.1]), np.array([0.2, 0.8])
    value = values(carot=np.array([0.75, 0.75]), **others)
    # against .7 (FT), then against .8 (FLYP)
    lead = against_best_baseline("id_test", "accuracy").of(value)
    np.testing.assert_allclose(lead, [0.05, -0.05])


def one_claim(relation: str) -> Claim:
    return Claim("9", "Here", "Words", (difference("ft", "zs", "ood", "accuracy", relation),))


def test_replicates_are_paired_so_shared_luck_cancels():
    luck = np.random.default_rng(0).normal(0, 0.1, size=500)
    replicate = values(ft=0.51 + luck, zs=0.5 + luck)
    report = judge(
        [one_claim(">")], values(ft=0.51, zs=0.5), replicate, values(ft=0.4, zs=0.5), 0.95, 1
    )
    [row] = report.to_dict("records")
    # each has an interval of +-.2, their difference none
    assert (row["low"], row["high"]) == (pytest.approx(0.01), pytest.approx(0.01))
    assert row["verdict"] == row["claim_verdict"] == "holds"
    # the paper's own .4 - .5 speaks against it
    assert row["paper_value"] == pytest.approx(-0.1)
    assert row["paper_verdict"] == "does not hold"


def test_the_interval_holds_the_middle_of_the_replicates():
    # 0, .01, ..., 1.00: the middle 90 % run from .05 to .95
    replicate = values(ft=np.arange(101) / 100, zs=np.zeros(101))
    report = judge([one_claim(">")], values(ft=0.5, zs=0.0), replicate, values(ft=1, zs=0), 0.9, 3)
    assert report.loc[0, ["low", "high"]].tolist() == pytest.approx([0.05, 0.95])
    assert report.loc[0, "seeds"] == 3


def test_an_equivalence_states_its_margin_in_the_report():
    same = values(ft=0.5, zs=0.5)
    report = judge([one_claim("~")], same, values(ft=np.ones(9), zs=np.ones(9)), same, 0.95, 1)
    assert report.loc[0, "relation"] == "within 0.01"


def test_every_part_of_a_compound_claim_carries_the_verdict_of_the_whole():
    parts = (
        difference("ft", "zs", "ood", "accuracy", ">"),
        difference("zs", "ft", "ood", "ece", ">"),
    )
    claim = Claim("9", "Here", "Words", parts)
    value = values(ft=0.6, zs=0.5)
    report = judge([claim], value, values(ft=np.full(9, 0.6), zs=np.full(9, 0.5)), value, 0.95, 1)
    assert report["verdict"].tolist() == ["holds", "does not hold"]
    assert report["claim_verdict"].tolist() == ["does not hold", "does not hold"]


def test_a_missing_run_is_named():
    with pytest.raises(KeyError, match="'zs'"):
        judge([one_claim(">")], values(ft=0.6), values(ft=np.ones(9)), values(ft=0.6), 0.95, 1)


def test_one_seed_is_not_resampled():
    replicates = np.random.default_rng(0).normal(size=(1, 50))
    np.testing.assert_array_equal(resample_seeds(replicates, seed=0), replicates[0])


def test_several_seeds_widen_the_interval_by_their_own_spread():
    # three seeds at -1, 0, 1 without any spread of images: the mean of three draws has
    # variance (2/3) / 3 = 2/9, so a standard deviation of .471
    replicates = np.repeat([[-1.0], [0.0], [1.0]], 20_000, axis=1)
    resampled = resample_seeds(replicates, seed=0)
    assert resampled.std() == pytest.approx(0.471, abs=0.01)
    assert resampled.mean() == pytest.approx(0, abs=0.02)


def test_the_same_seeds_are_drawn_for_every_run():
    of_seeds = np.random.default_rng(0).normal(size=(3, 100))
    gap = resample_seeds(of_seeds + 0.02, seed=0) - resample_seeds(of_seeds, seed=0)
    np.testing.assert_allclose(gap, 0.02)


def by_the_papers_numbers() -> dict[str, list[str]]:
    report = judge(CLAIMS, PAPER, lambda *place: np.full(3, PAPER(*place)), PAPER, 0.95, 1)
    return report.groupby("claim")["paper_verdict"].agg(list).to_dict()


def test_all_six_claims_and_the_ablation_are_judged():
    numbers = [claim.number for claim in CLAIMS]
    assert len(set(numbers)) == len(numbers)
    assert {number[0] for number in numbers} == {"1", "2", "3", "4", "5", "6", "A"}


def test_the_papers_table_contradicts_that_carot_is_best_in_everything():
    # OOD accuracy: .6197 of CaRot, .6405 of WiSE-FT w/ LS; the other five numbers agree
    assert by_the_papers_numbers()["6"] == ["holds", "does not hold", *["holds"] * 4]


def test_the_papers_table_contradicts_that_smoothing_calibrates_wise_ft():
    # .5231 with LS, .2129 without; OOD .3601 and .1764
    assert by_the_papers_numbers()["5b"] == ["does not hold", "does not hold"]


def test_the_papers_table_supports_its_first_and_third_claim_and_the_ablation():
    verdicts = by_the_papers_numbers()
    for claim in ("1", "2a", "2b", "3a", "3b", "A1", "A2", "A3", "A4"):
        assert set(verdicts[claim]) == {"holds"}, claim


def test_published_numbers_are_found_by_run_set_metric_and_calibration():
    assert PAPER("ft_ls", "ood", "ece", "temperature") == 0.1282
    assert PAPER("ft_ls", "ood", "ece", "none") == 0.1147
    assert PAPER("carot_frozen", "id_test", "accuracy", "none") == 0.7848


def test_the_papers_table_contradicts_that_scaling_helps_every_row():
    # FT w/ LS: ID ECE .0460 -> .0481, OOD ECE .1147 -> .1282; every other row falls
    parts = [part.statistic for claim in CLAIMS if claim.number == "4a" for part in claim.parts]
    rising = [
        part
        for part, said in zip(parts, by_the_papers_numbers()["4a"], strict=True)
        if said != "holds"
    ]
    assert rising == ["ID ECE: FT w/ LS w/ TS - w/o TS", "OOD ECE: FT w/ LS w/ TS - w/o TS"]


@pytest.mark.parametrize(("claim", "nearest"), [("4b", 0.0232), ("5a", -0.0184)])
def test_the_papers_table_supports_the_gap_to_zs_and_smoothing_of_ft_and_flyp(claim, nearest):
    report = judge(CLAIMS, PAPER, lambda *place: np.full(3, PAPER(*place)), PAPER, 0.95, 1)
    parts = report[report["claim"] == claim]
    assert set(parts["paper_verdict"]) == {"holds"}
    # the part nearest to zero: OOD with TS, CaRot .0980 - ZS .0748; ID, FLYP .0459 - .0643
    values = parts["paper_value"].to_numpy()
    assert values[np.abs(values).argmin()] == pytest.approx(nearest)


def test_a_difference_is_read_from_its_paired_interval():
    # carot .70 on every set; a: .75 +- .01, b: .71 +- .02, c: .60 +- .01
    centre = {"carot": 0.70, "a": 0.75, "b": 0.71, "c": 0.60}
    spread = {"carot": 0.0, "a": 0.01, "b": 0.02, "c": 0.01}
    table = differences(
        ["a", "b", "c"],
        "carot",
        lambda run, *place: centre[run],
        lambda run, *place: centre[run] + spread[run] * np.linspace(-1, 1, 101),
        0.95,
    )
    assert table.groupby("run")["reading"].unique().map(list).to_dict() == {
        "a": ["higher"],
        "b": ["within noise"],
        "c": ["lower"],
    }
    assert table[table["run"] == "a"]["value"].unique() == pytest.approx([0.05])
    assert len(table) == 3 * 2 * 3  # runs, sets, and accuracy, ECE, ECE with scaling
