"""Where everything lies: the one place that knows the names of folders and files."""

from dataclasses import dataclass
from pathlib import Path

import yaml

VALIDATION = "id_val"  # the set on which everything is selected; no calibration is reported on it


@dataclass(frozen=True)
class Layout:
    """The files of one profile.

    Attributes:
        root: the project's folder, which holds params.yaml.
        profile: one of params.yaml, such as `miniature`; part of every path that a stage writes.
    """

    root: Path
    profile: str

    @property
    def params(self) -> Path:
        """Every number of every experiment."""
        return self.root / "params.yaml"

    @property
    def pictograms(self) -> Path:
        """The list of the miniature's pictograms."""
        return self.root / "data" / "pictograms.csv"

    @property
    def paper(self) -> Path:
        """The published numbers."""
        return self.root / "data" / "paper"

    @property
    def choices(self) -> Path:
        """What was chosen by commands that are run by hand, and by which numbers."""
        return self.root / "data" / "choices"

    @property
    def listed(self) -> Path:
        """Which image files there are, and what the user's own texts say."""
        return self.root / "data" / "listed" / self.profile / "files.json"

    @property
    def checked(self) -> Path:
        """The report on image folders in which no problem was found."""
        return self.root / "data" / "checked" / self.profile / "report.json"

    @property
    def data(self) -> Path:
        """Prepared sets, see `carot_lib.data.datasets`."""
        return self.root / "data" / "prepared" / self.profile

    @property
    def pretrained(self) -> Path:
        """The pre-trained CLIP."""
        return self.root / "models" / self.profile / "pretrained"

    def model(self, run: str, seed: int) -> Path:
        """The classifier of one run and the history of its training."""
        return self._per_run("models", run, seed)

    def checkpoint(self, run: str, seed: int) -> Path:
        """The state of an unfinished training, outside the results: DVC removes those first."""
        return self._per_run("checkpoints", run, seed)

    def live(self, run: str, seed: int) -> Path:
        """Metrics of a training, to be followed while it runs."""
        return self._per_run("live", run, seed)

    def predictions(self, run: str, seed: int, dataset: str) -> Path:
        """Logits and labels of one run on one set."""
        return self._per_run("predictions", run, seed) / f"{dataset}.npz"

    def evaluation(self, run: str, seed: int) -> Path:
        """Temperature, metrics and bootstrap replicates of one run."""
        return self._per_run("evaluations", run, seed)

    def summary(self, run: str, seed: int) -> Path:
        """The numbers of Table 1 of one run, kept in git for `dvc metrics`."""
        return self.results / "runs" / f"{run}-seed{seed}.json"

    @property
    def results(self) -> Path:
        """Tables, figures and executed notebooks: what git keeps."""
        return self.root / "results" / self.profile

    @property
    def tables(self) -> Path:
        """All tables, as CSV, Markdown and LaTeX."""
        return self.results / "tables"

    @property
    def provenance(self) -> Path:
        """The record of what the results were computed by."""
        return self.results / "provenance.json"

    @property
    def wise_ft_curves(self) -> Path:
        """Accuracy and ECE of WiSE-FT along alpha, a file for each run and seed."""
        return self.results / "wise_ft_curves"

    def wise_ft_curve(self, run: str, seed: int) -> Path:
        """The file of one run."""
        return self.wise_ft_curves / f"{run}_seed{seed}.csv"

    def notebook(self, name: str) -> Path:
        """The executed copy of a notebook; its figures lie beside it."""
        return self.results / "notebooks" / name / f"{name}.ipynb"

    @property
    def site(self) -> Path:
        """The rendered appendix."""
        return self.root / "site" / self.profile

    def _per_run(self, folder: str, run: str, seed: int) -> Path:
        return self.root / folder / self.profile / run / f"seed{seed}"


def find_root() -> Path:
    """The project's folder: the nearest one upwards that holds params.yaml.

    Searches from the working directory first, then from where this package is installed, so that a
    notebook finds it wherever its kernel was started.

    Raises:
        FileNotFoundError: neither has params.yaml.
    """
    for start in (Path.cwd(), Path(__file__).resolve().parent):
        for folder in (start, *start.parents):
            if (folder / "params.yaml").exists() and (folder / "carot_lib").is_dir():
                return folder
    raise FileNotFoundError(f"no params.yaml in {Path.cwd()} or any folder above it")


def chosen_profile(root: Path) -> str:
    """The profile that params.yaml chooses, without checking the rest of the file.

    Where it cannot be read, `miniature`: whoever reads the file says what is wrong with it.
    """
    try:
        return str(yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))["profile"])
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError):
        return "miniature"
