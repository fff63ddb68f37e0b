"""params.yaml as one typed, frozen tree: the only reader of that file."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from carot_lib.methods import MethodParams
from carot_lib.miniature import PictogramParams
from carot_lib.pretraining import PretrainingParams
from carot_lib.schema import Fraction, StrictParams
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


class InterpolationParams(StrictParams):
    """A WiSE-FT row: (1 - alpha) * zero-shot weights + alpha * the weights of run `source`."""

    source: str
    alpha: Fraction


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
    """How predictions are judged."""

    n_bins: PositiveInt
    ood: list[str]  # sets whose mean is the OOD column
    extra: list[str]  # sets reported by themselves
    temperature: TemperatureParams
    bootstrap: BootstrapParams
    batch_mean_size: PositiveInt  # images a batch, for the public code's mean of batch ECEs

    @property
    def datasets(self) -> list[str]:
        """Every set that is predicted: validation, test, the shifts, and what is extra."""
        return ["id_val", "id_test", *self.ood, *self.extra]


class ScaleParams(StrictParams):
    """One scale of the experiments: what `miniature:` and `imagenet:` hold."""

    data: Annotated[PictogramParams | ImageFolderParams, Field(discriminator="kind")]
    pretrained: Annotated[PretrainingParams | OpenClipParams, Field(discriminator="kind")]
    hardware: HardwareParams
    training: TrainingParams
    runs: dict[str, MethodParams]
    interpolated: dict[str, InterpolationParams]
    label_smoothing_grid: list[Fraction]
    evaluation: EvaluationParams

    @model_validator(mode="after")
    def _sources_exist(self) -> "ScaleParams":
        for name, row in self.interpolated.items():
            if row.source not in self.runs:
                raise ValueError(f"interpolated.{name}.source: no run named {row.source!r}")
        return self


class Params(StrictParams):
    """The whole of params.yaml."""

    profile: Profile
    seeds: Annotated[list[int], Field(min_length=1)]
    rows: list[str]
    trained: list[str]
    interpolated: list[str]
    miniature: ScaleParams
    imagenet: ScaleParams

    def scale(self, profile: Profile) -> ScaleParams:
        """The numbers of one profile."""
        return {"miniature": self.miniature, "imagenet": self.imagenet}[profile]

    @model_validator(mode="after")
    def _lists_name_the_runs(self) -> "Params":
        if sorted(self.rows) != sorted(["zs", *self.trained, *self.interpolated]):
            raise ValueError("rows: must be zs and every name of `trained` and `interpolated`")
        for profile in ("miniature", "imagenet"):
            scale = self.scale(profile)
            for key, listed, entries in (
                ("trained", self.trained, scale.runs),
                ("interpolated", self.interpolated, scale.interpolated),
            ):
                if odd := sorted(set(listed) ^ set(entries)):
                    where = f"{profile}.{'runs' if key == 'trained' else 'interpolated'}"
                    raise ValueError(f"{key}: not both here and in {where}: {', '.join(odd)}")
        return self


def find_root() -> Path:
    """The project's folder: the nearest one upwards that holds params.yaml.

    Looks from the working directory first, then from where this package is installed, so that a
    notebook finds it wherever its kernel was started.

    Raises:
        FileNotFoundError: neither has params.yaml.
    """
    for start in (Path.cwd(), Path(__file__).resolve().parent):
        for folder in (start, *start.parents):
            if (folder / "params.yaml").exists() and (folder / "carot_lib").is_dir():
                return folder
    raise FileNotFoundError(f"no params.yaml in {Path.cwd()} or any folder above it")


def load_params(path: Path) -> Params:
    """Read and check params.yaml.

    Raises:
        ValueError: the file is no YAML, or a key is unknown, missing, ill-typed or out of range;
            one line a fault, each with the path of its key.
        FileNotFoundError: there is no such file.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path.name}: not YAML: {' '.join(str(error).split())}") from error
    try:
        return Params.model_validate(tree)
    except ValidationError as error:
        faults = [f"{path.name}: {_path(fault)}: {fault['msg']}" for fault in error.errors()]
        raise ValueError("\n".join(faults)) from error


def load_params_or_exit(path: Path) -> Params:
    """`load_params` for a stage: a fault ends the program with its line and exit code 2."""
    try:
        return load_params(path)
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


def _path(fault: Any) -> str:
    """`miniature.runs.carot.learning_rate` for a fault that pydantic found.

    Pydantic puts the chosen kind of a union behind its key, a word that stands in no file.
    """
    location = fault["loc"]
    kept = [
        str(key)
        for i, key in enumerate(location)
        if not (i == 2 and location[1] in ("data", "pretrained"))
        and not (i == 3 and location[1] == "runs")
    ]
    return ".".join(kept) or "the whole file"
