"""What is evaluated and how: rows and seeds, and the `evaluation:` branch of params.yaml."""

from typing import Annotated

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from carot_lib.layout import VALIDATION, Layout
from carot_lib.schema import StrictParams, read_params

# the numbers of Table 1 by column: dataset (`ood`: mean over the shifts), calibration, metric
TABLE1_COLUMNS = {
    "id_acc": ("id_test", "none", "accuracy"),
    "ood_acc": ("ood", "none", "accuracy"),
    "id_ece": ("id_test", "none", "ece"),
    "ood_ece": ("ood", "none", "ece"),
    "id_ece_ts": ("id_test", "temperature", "ece"),
    "ood_ece_ts": ("ood", "temperature", "ece"),
    "temperature": (VALIDATION, "temperature", "temperature"),
}
COLUMNS = {  # and of the other tables
    **TABLE1_COLUMNS,
    "id_nll": ("id_test", "none", "nll"),
    "ood_nll": ("ood", "none", "nll"),
    "id_brier": ("id_test", "none", "brier"),
    "ood_brier": ("ood", "none", "brier"),
    "id_ece_batch_mean": ("id_test", "none", "ece_batch_mean"),
    "ood_ece_batch_mean": ("ood", "none", "ece_batch_mean"),
    "id_ece_ts_nll": ("id_test", "temperature_nll", "ece"),
    "ood_ece_ts_nll": ("ood", "temperature_nll", "ece"),
    "temperature_nll": (VALIDATION, "temperature_nll", "temperature"),
}
NO_SHIFTS = ("train", "val", "test", VALIDATION, "id_test", "ood")  # `ood`: mean over the shifts


class TemperatureParams(StrictParams):
    """The grid of temperatures to choose from."""

    low: PositiveFloat
    high: PositiveFloat
    step: PositiveFloat

    @model_validator(mode="after")
    def _low_is_below_high(self) -> "TemperatureParams":
        if self.low >= self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
        return self


class BootstrapParams(StrictParams):
    """Intervals by resampling images."""

    resamples: PositiveInt
    level: Annotated[float, Field(gt=0, lt=1)]  # of intervals, consistency boxes and tests
    seed: int


class Margins(StrictParams):
    """The least differences that the paper's words stand for."""

    some: NonNegativeFloat  # any difference
    large: PositiveFloat  # "remarkably", "largely", "significantly"
    equivalent: PositiveFloat  # "no meaningful" difference: at most this one


class EvaluationParams(StrictParams):
    """The branch `evaluation:` of a profile."""

    n_bins: PositiveInt
    ood: list[str]  # sets whose mean is the OOD column
    extra: list[str]  # sets reported by themselves
    temperature: TemperatureParams
    bootstrap: BootstrapParams
    margins: Margins
    batch_mean_size: PositiveInt  # images per batch, for the public code's mean of batch ECEs

    @model_validator(mode="after")
    def _sets_are_test_sets_named_once(self) -> "EvaluationParams":
        if not self.ood:
            raise ValueError("ood: names no set: at least one shifted set is needed")
        names = [*self.ood, *self.extra]
        if odd := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"ood, extra: {', '.join(odd)}: named twice")
        if odd := [name for name in names if name in NO_SHIFTS]:
            raise ValueError(
                f"ood, extra: {', '.join(odd)}: not the name of a shifted or extra set"
            )
        return self

    @property
    def reported(self) -> list[str]:
        """Every set that is reported: test, the shifts, and the extra ones."""
        return ["id_test", *self.ood, *self.extra]

    @property
    def datasets(self) -> list[str]:
        """Every set that is predicted: validation and the reported ones."""
        return [VALIDATION, *self.reported]


class RowParams(BaseModel):
    """Rows of the tables and seeds: the part of params.yaml that all profiles share."""

    model_config = ConfigDict(frozen=True, extra="ignore")  # the rest of the file is read elsewhere

    rows: list[str]
    seeds: list[int]


def load_rows(layout: Layout) -> RowParams:
    """Rows and seeds, without the rest of the file; raises as `carot_lib.schema.read_params`."""
    return read_params(layout.params, RowParams)


def load_evaluation(layout: Layout) -> EvaluationParams:
    """The branch of one profile, without the rest of the file; raises as `read_params`.

    So stages that only evaluate predictions start without torch and the training code.
    """
    return read_params(layout.params, EvaluationParams, layout.profile, "evaluation")
