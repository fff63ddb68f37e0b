"""params.yaml: the real file, and one line for every fault in it."""

import copy
import functools
import json
import math
import operator
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from carot_lib.evaluation import load_evaluation, load_rows
from carot_lib.layout import Layout
from carot_lib.methods.base import RunParams
from carot_lib.params import check, load_params, load_scale
from carot_lib.schema import count_steps, read_params
from carot_lib.stages.data import check_data
from carot_lib.training.optimizer import TrainingParams

ROOT = Path(__file__).parents[1]
# through JSON: what YAML's aliases share becomes copies, of which one can be changed alone
TREE = json.loads(json.dumps(yaml.safe_load((ROOT / "params.yaml").read_text())))
CAROT = ("miniature", "runs", "carot")
GONE = object()


def problem(tmp_path: Path, *keys: str | int, value: object) -> str:
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
            "profile: Input should be 'miniature', 'miniature_underconfident', 'imagenet' or "
            "'folders', not 'tiny'",
        ),
        (("seeds",), [], "seeds: List should have at least 1 item after validation, not 0"),
        (("seeds",), [0, -1], "seeds.1: Input should be greater than or equal to 0, not -1"),
        (("seeds",), [2, 0, 2], "seeds: one occurs twice in [2, 0, 2]"),
        (("miniature",), GONE, "miniature: missing"),
        (
            ("folders", "evaluation", "ood"),
            [],
            "folders.evaluation.ood: names no set: at least one shifted set is needed",
        ),
        (
            ("miniature", "evaluation", "ood"),
            ["v2", "v2", "handwritten"],
            "miniature.evaluation.ood, extra: handwritten, v2: named twice",
        ),
        (
            ("folders", "evaluation", "ood"),
            ["shifted", "test", "ood"],
            "folders.evaluation.ood, extra: test, ood: not the name of a shifted or extra set",
        ),
        (
            ("imagenet", "runs", "ft", "learning_rate"),
            "3e-5",  # YAML 1.1 reads it as text where no point stands before the e
            "imagenet.runs.ft.learning_rate: Input should be a valid number, not '3e-5'",
        ),
        (
            ("miniature", "training", "weight_decay"),
            math.inf,
            "miniature.training.weight_decay: Input should be a finite number, not inf",
        ),
        ((*CAROT, "update_evry"), 5, "miniature.runs.carot.update_evry: unknown key"),
        ((*CAROT, "momentum_end"), GONE, "miniature.runs.carot.momentum_end: missing"),
        (
            (*CAROT, "momentum_end"),
            1.5,
            "miniature.runs.carot.momentum_end: Input should be less than or equal to 1, not 1.5",
        ),
        (
            ("miniature", "runs", "flyp", "learning_rate"),
            -1.0,
            "miniature.runs.flyp.learning_rate: Input should be greater than 0, not -1.0",
        ),
        (("imagenet", "pretrained", "weights"), GONE, "imagenet.pretrained.weights: missing"),
        (
            ("miniature", "training", "images_per_class"),
            0,
            "miniature.training.images_per_class: Input should be greater than 0, not 0",
        ),
        (
            ("miniature", "search", "seeds"),
            [],
            "miniature.search.seeds: List should have at least 1 item after validation, not 0",
        ),
        (
            ("imagenet", "training", "epochs"),
            0,
            "imagenet.training.epochs: Input should be greater than 0, not 0",
        ),
        (
            ("rows",),
            ["zs"],
            "rows: must be zs, every row under `methods`, and wise_<row> for every row of "
            "`methods.wise_ft`; see carot, carot_every_step, carot_frozen, carot_update_2x, flyp, "
            "flyp_ls, ft, ft_ls, wise_ft, wise_ft_ls",
        ),
        (("methods", "wise_ft"), ["ft", "zs"], "rows: must be zs, every row under `methods`, and "
            "wise_<row> for every row of `methods.wise_ft`; see wise_ft_ls, wise_zs"),
        (
            ("miniature", "runs", "ft_ls"),
            GONE,
            "miniature.runs.ft_ls: missing, but listed in methods.fine_tune",
        ),
        (
            ("miniature", "runs", "carot_frozen"),
            TREE["miniature"]["runs"]["flyp"],
            "miniature.runs.carot_frozen.kind: flyp, but listed in methods.carot",
        ),
        (
            (*CAROT, "update_every"),
            1.5,
            "miniature.runs.carot.update_every: Input should be less than 1, not 1.5",
        ),
    ],
)  # fmt: skip
def test_a_problem_is_one_line_with_its_path(tmp_path: Path, keys: tuple, value: object, line: str):
    assert problem(tmp_path, *keys, value=value) == f"params.yaml: {line}"


def test_an_unknown_kind_names_the_known_ones(tmp_path: Path):
    said = problem(tmp_path, "miniature", "runs", "flyp", "kind", value="flypp")
    assert said.startswith("params.yaml: miniature.runs.flyp: ")
    assert "'fine_tune', 'flyp', 'carot'" in said


def test_two_problems_are_two_lines(tmp_path: Path):
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


def test_a_key_that_occurs_twice_is_refused(tmp_path: Path):
    path = tmp_path / "params.yaml"
    path.write_text("profile: miniature\nseeds: [0]\nprofile: imagenet\n")
    with pytest.raises(
        ValueError, match=r"^params\.yaml: .* line 3: the key 'profile' occurs twice"
    ):
        load_params(path)


def test_a_branch_is_read_alone_and_its_faults_have_the_whole_path(tmp_path: Path):
    tree = {"miniature": {"training": {**TREE["miniature"]["training"], "epochs": "many"}}}
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(ValueError, match=r"^params\.yaml: miniature\.training\.epochs: "):
        read_params(path, TrainingParams, "miniature", "training")
    with pytest.raises(ValueError, match=r"^params\.yaml: miniature\.runs: missing$"):
        read_params(path, RunParams, "miniature", "runs", "ft")


@pytest.mark.parametrize("profile", ["miniature", "imagenet"])
def test_the_papers_numbers_are_there(profile: str):
    scale = load_params(ROOT / "params.yaml").scale(profile)
    carot = scale.runs["carot"]
    assert carot.distillation_weight == 0.75  # A.1
    assert (carot.momentum_start, carot.momentum_end) == (0.05, 0.9)  # A.1
    assert carot.momentum_warmup == 0.2  # A.1
    assert scale.evaluation.n_bins == 10  # Section 3
    temperature = scale.evaluation.temperature
    assert (temperature.low, temperature.high) == (0.5, 10.0)  # A.1
    assert scale.search.label_smoothing == [0.01, 0.03, 0.05, 0.1, 0.2]  # A.1
    assert scale.wise_ft.alpha == 0.5  # A.1
    assert len(scale.evaluation.ood) == 5
    assert scale.runs["carot_every_step"].update_every == 1  # Table 2
    assert scale.runs["carot_update_2x"].update_every == 2 * carot.update_every
    assert scale.runs["carot_frozen"].update_every is None


def test_imagenet_has_the_papers_rates_and_sizes():
    scale = load_params(ROOT / "params.yaml").imagenet
    assert scale.runs["ft"].learning_rate == 3e-5
    assert scale.runs["flyp"].learning_rate == scale.runs["carot"].learning_rate == 1e-5
    assert (scale.training.batch_size, scale.training.weight_decay) == (512, 0.1)
    assert (scale.training.epochs, scale.training.images_per_class) == (10, None)
    assert scale.runs["carot"].update_every == scale.training.warmup == 500
    steps = scale.training.total_steps(1_281_167 - 26_000)
    assert count_steps(scale.training.validate_every, steps) == steps / 10  # once per epoch


def places(tree: object, *above: str | int) -> list[tuple[str | int, ...]]:
    """The path of every key and list item of a tree."""
    named = tree.items() if isinstance(tree, dict) else enumerate(tree)
    found = []
    for key, value in named:
        found.append((*above, key))
        found += places(value, *above, key) if isinstance(value, dict | list) else []
    return found


ODD = [None, True, "", "x", "1e-5", "ood", "folders", "data", "é\n", [], [0, 0], ["x", "x"], {}]
ODD += [-1, 0, 1, 10**30, -0.5, 0.5, 1e-300, math.inf, math.nan, {"x": 1}, [None], GONE]


@pytest.fixture
def folders(tmp_path: Path) -> Layout:
    """A project with two classes of images of its own."""
    for name in ("train", "test", "shifted"):
        for shade, word in enumerate(("one", "two")):
            folder = tmp_path / "data" / "folders" / name / word
            folder.mkdir(parents=True)
            Image.new("L", (4, 4), shade).save(folder / "1.png")
    return Layout(tmp_path, "folders")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(places(TREE)), st.sampled_from(ODD))
@example(("folders", "data", "folder"), "")
@example(("folders", "data", "folder"), "data/folders/train/one/1.png")
@example(("folders", "data", "validation_per_class"), 10**30)
@example(("folders", "training", "epochs"), 10**30)
@example(("folders", "training", "batch_size"), 10**30)
@example(("folders", "evaluation", "ood"), ["../x"])
def test_any_change_of_any_key_is_taken_or_refused_in_lines(
    folders: Layout, place: tuple, odd: object
):
    tree = copy.deepcopy(TREE)
    *above, key = place
    node = functools.reduce(operator.getitem, above, tree)
    node[key] = odd
    if odd is GONE:
        del node[key]
    folders.params.write_text(yaml.safe_dump(tree), encoding="utf-8")
    try:
        check(folders)
        check_data(folders)  # its problems are lines
    except ValueError as error:
        for line in str(error).splitlines():
            assert line.startswith("params.yaml: "), line


def test_the_miniature_updates_its_teacher_at_the_papers_share_of_the_steps():
    scale = load_scale(Layout(ROOT, "miniature"))
    for share in (scale.runs["carot"].update_every, scale.training.warmup):
        assert share == pytest.approx(500 / 25_030, abs=1e-4)  # 500 of 25,030 steps


@pytest.mark.parametrize(
    ("steps", "total", "count"), [(500, 24_520, 500), (0, 10, 0), (0.02, 790, 16), (0.02, 10, 1)]
)
def test_steps_are_a_count_or_a_share(steps: float, total: int, count: int):
    assert count_steps(steps, total) == count


def test_a_profile_that_is_not_chosen_may_lack_rows(tmp_path: Path):
    tree = copy.deepcopy(TREE)
    del tree["imagenet"]["runs"]["ft_ls"]
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(tree))
    assert load_params(path).profile == "miniature"


def test_what_every_stage_reads_agrees_with_the_whole_file():
    params, layout = load_params(ROOT / "params.yaml"), Layout(ROOT, "miniature")
    assert load_evaluation(layout) == params.miniature.evaluation
    assert load_rows(layout).rows == params.rows
    assert load_rows(layout).seeds == params.seeds
