"""params.yaml as one typed, frozen tree."""

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, PositiveFloat, RootModel, model_validator

from carot_lib.evaluation import EvaluationParams
from carot_lib.methods.carot import CarotParams
from carot_lib.methods.fine_tune import FineTuneParams
from carot_lib.methods.flyp import FlypParams
from carot_lib.models.published import MiniatureClipParams, OpenClipParams
from carot_lib.models.wise_ft import InterpolationParams, MixParams
from carot_lib.schema import Fraction, StrictParams, read_params
from carot_lib.sources.folders import FoldersParams
from carot_lib.sources.imagenet import ImagenetParams
from carot_lib.sources.miniature import PictogramParams
from carot_lib.sources.shards import ShardsParams
from carot_lib.training.hardware import HardwareParams
from carot_lib.training.loop import TrainingParams
from carot_lib.training.pretraining import PretrainingParams

Profile = Literal["miniature", "imagenet", "folders"]
DataParams = Annotated[
    PictogramParams | ImagenetParams | FoldersParams | ShardsParams, Field(discriminator="kind")
]
PretrainedParams = Annotated[
    PretrainingParams | MiniatureClipParams | OpenClipParams, Field(discriminator="kind")
]
MethodParams = Annotated[FineTuneParams | FlypParams | CarotParams, Field(discriminator="kind")]


class Run(RootModel[MethodParams]):
    """One entry under `runs:` of params.yaml, read by itself."""


class Data(RootModel[DataParams]):
    """The branch `data:` of a profile, read by itself."""


class Pretrained(RootModel[PretrainedParams]):
    """The branch `pretrained:` of a profile, read by itself."""


class SearchParams(StrictParams):
    """Values that are tried on the ID validation set, by a run of its own."""

    learning_rate: list[PositiveFloat]
    label_smoothing: list[Fraction]


class ScaleParams(StrictParams):
    """One scale of the experiments: what `miniature:`, `imagenet:` and `folders:` hold."""

    data: DataParams
    pretrained: PretrainedParams
    hardware: HardwareParams
    training: TrainingParams
    runs: dict[str, MethodParams]
    interpolated: dict[str, InterpolationParams]
    interpolations: MixParams
    search: SearchParams
    evaluation: EvaluationParams


class Params(StrictParams):
    """The whole of params.yaml."""

    profile: Profile
    seeds: Annotated[list[int], Field(min_length=1)]
    rows: list[str]
    trained: list[str]
    interpolated: list[str]
    miniature: ScaleParams
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

    @model_validator(mode="after")
    def _lists_name_the_runs(self) -> "Params":
        rows = ["zs", *self.trained, *(f"wise_{run}" for run in self.interpolated)]
        if sorted(self.rows) != sorted(rows):
            odd = sorted(set(self.rows) ^ set(rows))
            raise ValueError(
                "rows: must be zs, every run of `trained`, and wise_<run> for every run of "
                f"`interpolated`; see {', '.join(odd) or 'a name that stands twice'}"
            )
        for profile in get_args(Profile):
            scale = self.scale(profile)
            for key, listed, where, entries in (
                ("trained", self.trained, "runs", scale.runs),
                ("interpolated", self.interpolated, "interpolated", scale.interpolated),
            ):
                if odd := sorted(set(listed) ^ set(entries)):
                    raise ValueError(f"{key}: not both here and in {profile}.{where}: {odd}")
        if odd := set(self.interpolated) - set(self.trained):
            raise ValueError(f"interpolated: not in `trained`: {sorted(odd)}")
        return self


def load_params(path: Path) -> Params:
    """Read and check params.yaml.

    Raises:
        ValueError: see `carot_lib.schema.read_params`.
    """
    return read_params(path, Params)
