"""params.yaml: the real file, and one line for every fault in it."""

import copy
import json
import math
from pathlib import Path

import pytest
import yaml

from carot_lib.evaluation import load_evaluation, load_rows
from carot_lib.layout import Layout, find_root
from carot_lib.params import Run, load_params
from carot_lib.schema import exit_on_bad_input, read_params
from carot_lib.training.loop import TrainingParams

ROOT = Path(__file__).parents[1]
# through JSON: what YAML's aliases share becomes copies, of which one can be changed alone
TREE = json.loads(json.dumps(yaml.safe_load((ROOT / "params.yaml").read_text())))
CAROT = ("miniature", "runs", "carot")
TEACHER = "miniature.runs.carot.teacher"
GONE = object()


def fault(tmp_path: Path, *keys: str | int, value: object) -> str:
    """What `load_params` says of the real file with one value changed or taken out."""
    tree = copy.deepcopy(TREE)
    node = tree
    for key in keys[:-1]:
        node = node[key]
    if value is GONE:
        del node[keys[-1]]
    else:
        node[keys[-1]] = value
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(ValueError, match=r"params\.yaml") as caught:
        load_params(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("keys", "value", "line"),
    [
        (("profil",), "miniature", "profil: unknown key"),
        (
            ("profile",),
            "tiny",
            "profile: Input should be 'miniature', 'imagenet' or 'folders', not 'tiny'",
        ),
        (("seeds",), [], "seeds: List should have at least 1 item after validation, not 0"),
        (("miniature",), GONE, "miniature: missing"),
        ((*CAROT, "teacher", "update_evry"), 5, f"{TEACHER}.update_evry: unknown key"),
        ((*CAROT, "teacher", "momentum_end"), GONE, f"{TEACHER}.momentum_end: missing"),
        (
            (*CAROT, "teacher", "momentum_end"),
            1.5,
            f"{TEACHER}.momentum_end: Input should be less than or equal to 1, not 1.5",
        ),
        (
            ("miniature", "runs", "flyp", "learning_rate"),
            -1.0,
            "miniature.runs.flyp.learning_rate: Input should be greater than 0, not -1.0",
        ),
        (
            ("miniature", "data", "recipes", "v2", "size", "low"),
            3.0,
            "miniature.data.recipes.v2.size.low (3.0) is above high (0.85)",
        ),
        (
            ("miniature", "data", "sets", "v2", "recipe"),
            "nope",
            "miniature.data.sets.v2.recipe: no recipe named 'nope'",
        ),
        (("imagenet", "pretrained", "weights"), GONE, "imagenet.pretrained.weights: missing"),
        (
            ("imagenet", "training", "epochs"),
            0,
            "imagenet.training.epochs: Input should be greater than 0, not 0",
        ),
        (
            ("rows",),
            ["zs"],
            "rows: must be zs, every run of `trained`, and wise_<run> for every run of "
            "`interpolated`; see carot, carot_update_2x, carot_every_step, carot_frozen, flyp, "
            "flyp_ls, ft, ft_ls, wise_ft, wise_ft_ls",
        ),
        (
            ("miniature", "interpolated", "ft"),
            GONE,
            "interpolated: not both here and in miniature.interpolated: ['ft']",
        ),
    ],
)  # fmt: skip
def test_a_fault_is_one_line_with_its_path(tmp_path: Path, keys: tuple, value: object, line: str):
    assert fault(tmp_path, *keys, value=value) == f"params.yaml: {line}"


def test_an_unknown_kind_names_the_known_ones(tmp_path: Path):
    said = fault(tmp_path, "miniature", "runs", "flyp", "kind", value="flypp")
    assert said.startswith("params.yaml: miniature.runs.flyp: ")
    assert "'fine_tune', 'flyp', 'carot'" in said


def test_two_faults_are_two_lines(tmp_path: Path):
    tree = copy.deepcopy(TREE)
    tree["miniature"]["training"] |= {"epochs": 0, "batch": 3}
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(ValueError, match="epochs") as caught:
        load_params(path)
    assert len(str(caught.value).splitlines()) == 2


def test_a_missing_file_and_no_yaml_are_said(tmp_path: Path):
    with pytest.raises(ValueError, match="no such file"):
        load_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("a: [1, 2")
    with pytest.raises(ValueError, match=r"params\.yaml: not YAML"):
        load_params(tmp_path / "params.yaml")


def test_a_branch_is_read_alone_and_its_faults_have_the_whole_path(tmp_path: Path):
    tree = {"miniature": {"training": {**TREE["miniature"]["training"], "epochs": "many"}}}
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(ValueError, match=r"^params\.yaml: miniature\.training\.epochs: "):
        read_params(path, TrainingParams, "miniature", "training")
    with pytest.raises(ValueError, match=r"^params\.yaml: miniature\.runs: missing$"):
        read_params(path, Run, "miniature", "runs", "ft")


def test_a_stage_ends_with_exit_code_2_and_no_traceback(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught, exit_on_bad_input():
        raise ValueError("params.yaml: seeds: missing")
    assert caught.value.code == 2
    assert capsys.readouterr().err == "params.yaml: seeds: missing\n"


@pytest.mark.parametrize("profile", ["miniature", "imagenet"])
def test_the_papers_numbers_are_there(profile: str):
    scale = load_params(ROOT / "params.yaml").scale(profile)
    carot, teacher = scale.runs["carot"], scale.runs["carot"].teacher
    assert carot.distillation_weight == 0.75  # A.1
    assert (teacher.momentum_start, teacher.momentum_end) == (0.05, 0.9)  # A.1
    assert teacher.warmup_fraction == 0.2  # A.1
    assert carot.learning_rate == scale.runs["flyp"].learning_rate  # A.1
    assert scale.training.epochs == 10  # A.1
    assert scale.evaluation.n_bins == 10  # Section 3
    temperature = scale.evaluation.temperature
    assert (temperature.low, temperature.high) == (0.5, 10.0)  # A.1
    assert scale.search.label_smoothing == [0.01, 0.03, 0.05, 0.1, 0.2]  # A.1
    assert {row.alpha for row in scale.interpolated.values()} == {0.5}  # A.1
    assert scale.evaluation.ood == ["v2", "r", "a", "sketch", "objectnet"]
    assert scale.runs["carot_every_step"].teacher.update_every == 1  # Table 2
    assert scale.runs["carot_update_2x"].teacher.update_every == 2 * teacher.update_every
    assert scale.runs["carot_frozen"].teacher.update_every is None


def test_imagenet_has_the_papers_own_rates_and_sizes():
    scale = load_params(ROOT / "params.yaml").imagenet
    assert scale.runs["ft"].learning_rate == 3e-5
    assert scale.runs["flyp"].learning_rate == 1e-5
    assert (scale.training.batch_size, scale.training.weight_decay) == (512, 0.1)
    assert scale.runs["carot"].teacher.update_every == 500


def test_the_miniature_updates_its_teacher_at_the_papers_fraction_of_the_steps():
    scale = load_params(ROOT / "params.yaml").miniature
    images = 100 * scale.data.sets["train"].images_per_class
    steps = scale.training.total_steps(images)
    assert steps == 10 * math.ceil(images / 64) == 790
    # 500 of 25,030 steps: 790 * 500 / 25,030 = 15.8
    assert scale.runs["carot"].teacher.update_every == round(steps * 500 / 25_030)
    assert scale.training.warmup_steps == round(steps * 500 / 25_030)


def test_what_every_stage_reads_agrees_with_the_whole_file():
    params, layout = load_params(ROOT / "params.yaml"), Layout(ROOT, "miniature")
    assert load_evaluation(layout) == params.miniature.evaluation
    assert load_rows(layout).rows == params.rows
    assert load_rows(layout).seeds == params.seeds


def test_the_project_is_found_from_a_folder_inside_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT / "notebooks")
    assert find_root() == ROOT
