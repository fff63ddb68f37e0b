"""Training in a notebook: what is seen of it, and that it is what DVC's stage does."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from IPython.display import DisplayHandle
from matplotlib.figure import Figure

from carot_lib.calibration.label_space import LabelSpace
from carot_lib.data.datasets import LabelledSet, read_prompts, read_set, write_set
from carot_lib.explore import training as module
from carot_lib.explore.training import compare_with_stored, loss_curve, loss_monitor, thin_out
from carot_lib.files import write_json
from carot_lib.layout import Layout
from carot_lib.models.clip import load_classifier, load_clip, save_clip
from carot_lib.params import load_params
from carot_lib.stages.train import train
from carot_lib.training.loop import fine_tune

ROOT = Path(__file__).parents[2]

CPU = torch.device("cpu")


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list:
    """What is displayed, first and at the end."""
    seen: list = []

    class Handle(DisplayHandle):
        def update(self, obj: object) -> None:
            seen.append(obj)

    def display(obj: object, display_id: bool) -> DisplayHandle:
        seen.append(obj)
        return Handle()

    monkeypatch.setattr(module, "display", display)
    return seen


def test_the_curve_shows_the_losses_so_far_and_their_running_mean():
    (ax,) = loss_curve({1: 6.0, 2: 3.0, 3: 2.0}, 4).axes
    losses, means = (line.get_xydata().tolist() for line in ax.lines)
    assert losses == [[1, 6], [2, 3], [3, 2]]
    assert means == [[1, 6], [2, 4.5], [3, pytest.approx(11 / 3)]]
    assert ax.get_title(loc="right") == "step 3 of 4: loss 3.667 nats"
    assert ax.get_xlim() == (0, 4)
    assert loss_curve({}, 4).axes[0].get_title(loc="right") == ""


def test_the_monitor_draws_the_sum_of_the_terms_now_and_then_and_at_the_end(
    shown: list, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    clock, drawn = iter(range(100)), []

    def draw(losses: dict[int, float], total_steps: int) -> Figure:
        drawn.append(dict(losses))
        return loss_curve(losses, total_steps)

    monkeypatch.setattr(module, "loss_curve", draw)
    monkeypatch.setattr(module.time, "monotonic", lambda: 0.1 * next(clock))
    with loss_monitor(20) as log:
        for step in range(1, 21):
            terms = {"a": 4.0 / step, "b": 2.0 / step}
            log({"step": step, "learning_rate": 0.1, **terms, "id_val/accuracy": 0.5})
            print("quiet", file=sys.stderr)
    assert capsys.readouterr().err == ""
    assert drawn[0] == {}
    assert drawn[-1] == {step: pytest.approx(6.0 / step) for step in range(1, 21)}
    # each look at the clock takes 0.1 s here: a second has passed after every tenth or so
    assert 3 <= len(drawn) <= 4
    assert shown[0] is shown[1]


def test_an_error_in_the_training_comes_out_and_ends_the_silence(shown: list):
    stderr = sys.stderr
    with pytest.raises(FloatingPointError), loss_monitor(3):
        raise FloatingPointError("the loss is not finite")
    assert sys.stderr is stderr
    assert len(shown) == 2


def some_set(n: int) -> LabelledSet:
    images = np.arange(n, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    return LabelledSet(
        name="train",
        labels=np.arange(n) // 5,
        images=images,
        paths=None,
        label_space=LabelSpace.identity(2),
        class_names=["a", "b"],
        fingerprint="f",
    )


def test_a_set_is_thinned_out_evenly_or_returned_as_it_is():
    whole = some_set(10)
    assert thin_out(whole, 10) is whole
    part = thin_out(whole, 4)
    assert part.labels.tolist() == [0, 0, 1, 1]  # of images 0, 3, 6, 9
    assert part.images[:, 0, 0, 0].tolist() == [0, 3, 6, 9]
    assert part.paths is None
    assert part.fingerprint == "f, 4 of 10"


@pytest.fixture
def layout(tmp_path: Path, make_clip) -> Layout:
    """A project with four classes of a few pictures, and the run FT."""
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    numbers = {"epochs": 2, "images_per_class": None, "batch_size": 16, "warmup": 1}
    tree["miniature"]["training"] |= numbers
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree))
    layout = Layout(tmp_path, "miniature")
    rng = np.random.default_rng(0)
    for name in ("train", "id_val", "id_test"):
        images = rng.integers(0, 256, (50, 32, 32, 3), dtype=np.uint8)
        write_set(layout.data, name, np.arange(50) % 4, images=images)
    names = {"class_names": ["cat", "steam locomotive", "tea pot", "owl"], "label_spaces": {}}
    write_json(layout.data / "classes.json", names)
    save_clip(make_clip(), layout.pretrained)
    return layout


def test_a_run_in_a_notebook_is_the_run_of_the_stage_bit_for_bit(layout: Layout, shown: list):
    train(layout, "ft", 3)
    # what notebook 10 does
    scale = load_params(layout.params).scale("miniature")
    clip = load_clip(layout.pretrained)
    prompts = read_prompts(layout.data, clip.context_length)
    images = thin_out(read_set(layout.data, "train"), max_size=5_000)
    steps = []
    with loss_monitor(scale.training.total_steps(len(images.labels))) as monitor:

        def log(record: dict[str, float]) -> None:
            monitor(record)
            steps.append(record["step"])

        run, training = scale.runs["ft"], scale.training
        classifier = fine_tune(run, training, scale.hardware, clip, prompts, images, 3, log, "ft")
    assert steps == list(range(1, 9))  # 2 epochs of 4 batches
    stored = load_classifier(layout.model("ft", 3))
    ours, theirs = classifier.state_dict(), stored.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    table = compare_with_stored(classifier, stored, read_set(layout.data, "id_test"), 10, CPU)
    assert table["difference"].tolist() == [0.0, 0.0, 0.0]
    assert table.loc["weights", "here"] == sum(v.numel() for v in ours.values())


def test_other_weights_show_by_their_largest_difference(layout: Layout):
    train(layout, "ft", 0)
    one, other = (load_classifier(layout.model("ft", 0)) for _ in range(2))
    with torch.no_grad():
        other.head.bias[2] += 0.25
    test = read_set(layout.data, "id_test")
    table = compare_with_stored(one, other, test, 10, CPU)
    assert table.loc["weights", "difference"] == pytest.approx(0.25)
    other.head = torch.nn.Linear(3, 2)
    with pytest.raises(ValueError, match="do not have the same tensors"):
        compare_with_stored(one, other, test, 10, CPU)
