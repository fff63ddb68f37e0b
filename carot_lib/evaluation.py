"""What is judged and how: the rows and seeds, and the `evaluation:` branch of params.yaml."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from carot_lib.layout import Layout
from carot_lib.schema import StrictParams, read_params

VALIDATION = "id_val"  # the set on which all is selected: no calibration is reported on it

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


class TemperatureParams(StrictParams):
    """Temperatures to choose from."""

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
    level: Annotated[float, Field(gt=0, lt=1)]
    seed: int


class EvaluationParams(StrictParams):
    """`evaluation:` of a profile."""

    n_bins: PositiveInt
    ood: list[str]  # sets whose mean is the OOD column
    extra: list[str]  # sets reported by themselves
    temperature: TemperatureParams
    bootstrap: BootstrapParams
    batch_mean_size: PositiveInt  # images a batch, for the public code's mean of batch ECEs
    equivalence_margin: PositiveFloat  # two numbers that differ by less count as equal

    @property
    def reported(self) -> list[str]:
        """Every set that is reported: test, the shifts, and what is extra."""
        return ["id_test", *self.ood, *self.extra]

    @property
    def datasets(self) -> list[str]:
        """Every set that is predicted: validation and those that are reported."""
        return [VALIDATION, *self.reported]


class RowParams(BaseModel):
    """The rows of the tables and the seeds: the part of params.yaml that both profiles share."""

    model_config = ConfigDict(frozen=True, extra="ignore")  # the rest of the file is not ours

    rows: list[str]
    seeds: list[int]


def load_rows(layout: Layout) -> RowParams:
    """Rows and seeds, without reading the rest of the file.

    Raises:
        ValueError: see `carot_lib.schema.read_params`.
    """
    return read_params(layout.params, RowParams)


def load_evaluation(layout: Layout) -> EvaluationParams:
    """The branch of one profile, without reading the rest of the file.

    Stages that only judge predictions start in a moment this way, and do not depend on the code
    that trains.

    Raises:
        ValueError: see `carot_lib.schema.read_params`.
    """
    return read_params(layout.params, EvaluationParams, layout.profile, "evaluation")
