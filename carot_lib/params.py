"""params.yaml as one typed, frozen tree."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from carot_lib.clip_model import InterpolationParams
from carot_lib.evaluation import EvaluationParams
from carot_lib.methods import MethodParams
from carot_lib.miniature import PictogramParams
from carot_lib.pretraining import PretrainingParams
from carot_lib.schema import Fraction, StrictParams, read_params
from carot_lib.training import HardwareParams, TrainingParams

Profile = Literal["miniature", "imagenet"]


class ImageFolderParams(StrictParams):
    """Image folders on disk: ImageNet-1K and its five shifts."""

    kind: Literal["imagenet"]
    folder: str  # holds one folder a set; relative to the project
    validation_per_class: PositiveInt  # images of train held out, never trained on
    seed: int  # of the held-out images


class OpenClipParams(StrictParams):
    """A pre-trained model that open_clip knows, by name."""

    kind: Literal["open_clip"]
    architecture: str
    weights: str


class SearchParams(StrictParams):
    """Values that are tried on the ID validation set, by a run of its own."""

    learning_rate: list[PositiveFloat]
    label_smoothing: list[Fraction]


class ScaleParams(StrictParams):
    """One scale of the experiments: what `miniature:` and `imagenet:` hold."""

    data: Annotated[PictogramParams | ImageFolderParams, Field(discriminator="kind")]
    pretrained: Annotated[PretrainingParams | OpenClipParams, Field(discriminator="kind")]
    hardware: HardwareParams
    training: TrainingParams
    runs: dict[str, MethodParams]
    interpolated: dict[str, InterpolationParams]
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

    def scale(self, profile: str) -> ScaleParams:
        """The numbers of one profile.

        Raises:
            ValueError: there is no such profile.
        """
        scales = {"miniature": self.miniature, "imagenet": self.imagenet}
        if profile not in scales:
            raise ValueError(f"profile: no profile named {profile!r}; there are {list(scales)}")
        return scales[profile]

    @model_validator(mode="after")
    def _lists_name_the_runs(self) -> "Params":
        rows = ["zs", *self.trained, *(f"wise_{run}" for run in self.interpolated)]
        if sorted(self.rows) != sorted(rows):
            odd = sorted(set(self.rows) ^ set(rows))
            raise ValueError(
                "rows: must be zs, every run of `trained`, and wise_<run> for every run of "
                f"`interpolated`; see {', '.join(odd) or 'a name that stands twice'}"
            )
        for profile in ("miniature", "imagenet"):
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
