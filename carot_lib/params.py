"""params.yaml as one typed, frozen tree."""

from functools import partial
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, NonNegativeInt, PositiveFloat, model_validator

from carot_lib.evaluation import EvaluationParams
from carot_lib.layout import Layout
from carot_lib.methods.carot import CarotParams
from carot_lib.methods.fine_tune import FineTuneParams
from carot_lib.methods.flyp import FlypParams
from carot_lib.models.published import MiniatureClipParams, OpenClipParams
from carot_lib.schema import Fraction, StrictParams, read_params
from carot_lib.sources.folders import FoldersParams
from carot_lib.sources.imagenet import ImagenetParams
from carot_lib.sources.miniature import PictogramParams
from carot_lib.sources.shards import ShardsParams
from carot_lib.training.hardware import HardwareParams
from carot_lib.training.optimizer import TrainingParams
from carot_lib.training.pretraining import PretrainingParams

WISE_FT = "wise_ft"  # the one method that trains nothing: it averages weights
Profile = Literal["miniature", "miniature_underconfident", "imagenet", "folders"]
# a new method, source of images or of a pre-trained model is one more name in one of these
MethodParams = Annotated[FineTuneParams | FlypParams | CarotParams, Field(discriminator="kind")]
DataParams = Annotated[
    PictogramParams | ImagenetParams | FoldersParams | ShardsParams, Field(discriminator="kind")
]
PretrainedParams = Annotated[
    PretrainingParams | MiniatureClipParams | OpenClipParams, Field(discriminator="kind")
]


class WiseFtParams(StrictParams):
    """The branch `wise_ft:` of a profile: shares of the fine-tuned weights."""

    alpha: Fraction  # of the rows WiSE-FT
    curve: Annotated[list[Fraction], Field(min_length=2)]  # from zero-shot (0) to fine-tuned (1)

    @model_validator(mode="after")
    def _curve_rises_from_0_to_1(self) -> "WiseFtParams":
        if sorted(set(self.curve)) != self.curve or (self.curve[0], self.curve[-1]) != (0, 1):
            raise ValueError(f"curve must rise from 0 to 1, not {self.curve}")
        return self


class SearchParams(StrictParams):
    """Values that `make search` tries on the ID validation set."""

    seeds: Annotated[list[NonNegativeInt], Field(min_length=1)]
    learning_rate: Annotated[list[PositiveFloat], Field(min_length=1)]
    label_smoothing: Annotated[list[Fraction], Field(min_length=1)]


class ScaleParams(StrictParams):
    """One scale of the experiments: `miniature:`, `imagenet:` or `folders:`."""

    runs: dict[str, MethodParams]
    wise_ft: WiseFtParams
    training: TrainingParams
    evaluation: EvaluationParams
    search: SearchParams
    hardware: HardwareParams
    pretrained: PretrainedParams
    data: DataParams

    def run(self, name: str) -> MethodParams:
        """The numbers of one trained row.

        Raises:
            ValueError: there is no such row.
        """
        if name not in self.runs:
            raise ValueError(f"params.yaml: runs.{name}: missing in this profile")
        return self.runs[name]


class Params(StrictParams):
    """The whole of params.yaml."""

    profile: Profile
    seeds: Annotated[list[NonNegativeInt], Field(min_length=1)]
    rows: list[str]
    methods: dict[str, list[str]]  # the rows that each method makes
    miniature: ScaleParams
    miniature_underconfident: ScaleParams
    imagenet: ScaleParams
    folders: ScaleParams

    def scale(self, profile: str) -> ScaleParams:
        """The numbers of one profile.

        Raises:
            ValueError: there is no such profile.
        """
        profiles = get_args(Profile)
        if profile not in profiles:
            raise ValueError(f"profile: no profile named {profile!r}; there are {list(profiles)}")
        return getattr(self, profile)

    @property
    def trained(self) -> dict[str, str]:
        """The method of every trained row."""
        kinds = {kind: rows for kind, rows in self.methods.items() if kind != WISE_FT}
        return {run: kind for kind, rows in kinds.items() for run in rows}

    @property
    def interpolated(self) -> list[str]:
        """The trained rows that are also averaged with `zs`."""
        return self.methods.get(WISE_FT, [])

    @model_validator(mode="after")
    def _seeds_differ(self) -> "Params":
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: one occurs twice in {self.seeds}")
        return self

    @model_validator(mode="after")
    def _rows_are_those_of_the_methods(self) -> "Params":
        trained = self.trained
        made = ["zs", *trained, *(f"wise_{run}" for run in self.interpolated)]
        if sorted(self.rows) != sorted(made):
            odd = sorted(set(self.rows) ^ set(made))
            raise ValueError(
                "rows: must be zs, every row under `methods`, and wise_<row> for every row of "
                f"`methods.wise_ft`; see {', '.join(odd) or 'a name that occurs twice'}"
            )
        if odd := sorted(set(self.interpolated) - set(trained)):
            raise ValueError(f"methods.wise_ft: no method trains {', '.join(odd)}")
        runs = self.scale(self.profile).runs
        for run, kind in trained.items():
            key = f"{self.profile}.runs.{run}"
            if run not in runs:
                raise ValueError(f"{key}: missing, but listed in methods.{kind}")
            if runs[run].kind != kind:
                raise ValueError(f"{key}.kind: {runs[run].kind}, but listed in methods.{kind}")
        return self


def load_params(path: Path) -> Params:
    """Read and check params.yaml.

    Raises:
        ValueError: see `carot_lib.schema.read_params`.
    """
    return read_params(path, Params)


def check(layout: Layout) -> None:
    """Check the whole of params.yaml, and what this machine has against what the profile asks for.

    Raises:
        ValueError: see `carot_lib.schema.read_params`, `HardwareParams.check` and
            `OpenClipParams.check`.
    """
    scale = load_scale(layout)
    checks = {"hardware": scale.hardware.check}
    if isinstance(scale.pretrained, OpenClipParams):
        checks["pretrained"] = partial(scale.pretrained.check, layout.root)
    for branch, check_branch in checks.items():
        try:
            check_branch()
        except ValueError as error:
            message = str(error).removeprefix(f"{branch}: ")
            raise ValueError(f"params.yaml: {layout.profile}.{branch}: {message}") from error


def load_scale(layout: Layout) -> ScaleParams:
    """The numbers of the layout's profile.

    Raises:
        ValueError: there is no such profile, or see `carot_lib.schema.read_params`.
    """
    return load_params(layout.params).scale(layout.profile)
