"""Saved predictions: what is refused, what comes back, and confidences by hand."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from carot_lib.calibration.label_space import LabelSpace
from carot_lib.calibration.predictions import Predictions, check_same_images

LOGITS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.integers(1, 5)),
    elements=st.floats(-50, 50, width=32),
)


# five classes of the classifier; own class 0 is its 4 or 1, own class 1 is its 2
COARSE = LabelSpace(5, ((4, 1), (2,)))


def shorten(
    logits: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    space: LabelSpace | None = None,
) -> Predictions:
    if logits is None:
        # as probabilities .6 and .4, then .1 and .9
        logits = np.log(np.array([[0.6, 0.4], [0.1, 0.9]], dtype=np.float32))
    if labels is None:
        labels = np.zeros(len(logits), dtype=np.int64)
    space = space or LabelSpace.identity(logits.shape[-1] or 1)
    return Predictions(logits, labels, space, "sketch", "abc123")


def coarse() -> Predictions:
    return shorten(np.array([[9.0, 1.0, 2.0, 8.0, 3.0]]), np.array([1]), COARSE)


def parts_of(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def saved(folder: Path) -> Path:
    path = folder / "sketch.npz"
    shorten().save(path)
    return path


@given(LOGITS, st.data())
def test_what_is_saved_comes_back_bit_by_bit(
    tmp_path_factory: pytest.TempPathFactory, logits: np.ndarray, data: st.DataObject
):
    n_classes = logits.shape[1]
    columns = data.draw(st.permutations(range(n_classes)))
    ends = sorted(data.draw(st.sets(st.integers(1, n_classes), min_size=1)))
    groups = tuple(tuple(columns[a:b]) for a, b in zip([0, *ends], ends, strict=False))
    labels = np.full(len(logits), len(groups) - 1, dtype=np.int16)
    space = LabelSpace(n_classes, groups)
    path = tmp_path_factory.mktemp("any") / "ü.npz"
    Predictions(logits.astype(float), labels, space, "Skizzen – grün", "ß").save(path)
    again = Predictions.load(path)
    np.testing.assert_array_equal(again.class_logits, logits)
    np.testing.assert_array_equal(again.labels, labels)
    assert (again.class_logits.dtype, again.labels.dtype) == (np.float32, np.int64)
    assert (again.label_space, again.dataset, again.fingerprint) == (space, "Skizzen – grün", "ß")


def test_a_label_space_is_saved_as_plain_arrays_of_integers(tmp_path: Path):
    coarse().save(tmp_path / "coarse.npz")
    parts = parts_of(tmp_path / "coarse.npz")
    assert parts["columns"].tolist() == [4, 1, 2]
    assert parts["columns_of_each"].tolist() == [2, 1]
    assert parts["columns"].dtype == parts["columns_of_each"].dtype == np.int64


def test_logits_are_those_of_the_sets_own_classes():
    # own class 0: the larger of 3 and 1; own class 1: 2
    assert coarse().logits.tolist() == [[3.0, 2.0]]
    assert coarse().class_logits.shape == (1, 5)
    # 1 / (1 + exp(2 - 3)) = .7311; class 0 is predicted, 1 is right
    confidences, correct = coarse().confidences()
    assert confidences == pytest.approx([0.7311], abs=5e-5)
    assert correct.tolist() == [False]
    predictions = coarse()
    assert predictions.logits is predictions.logits  # projected once


def test_a_missing_file_names_itself_and_the_stage_to_run(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"ft\.npz is missing: run stage `predict`"):
        Predictions.load(tmp_path / "ft.npz")


@pytest.mark.parametrize("kept", [0, 1, 3, 100, 400, -30, -1, None])
def test_a_truncated_or_text_file_is_refused_by_name(tmp_path: Path, kept: int | None):
    path = saved(tmp_path)
    path.write_bytes(path.read_bytes()[:kept] if kept is not None else b"not the logits\n")
    with pytest.raises(ValueError, match=r"sketch\.npz does not hold predictions"):
        Predictions.load(path)


def test_a_flipped_byte_among_the_logits_is_refused_by_name(tmp_path: Path):
    path = saved(tmp_path)
    content = path.read_bytes()
    stored = shorten().class_logits.tobytes()
    assert content.count(stored) == 1
    path.write_bytes(content.replace(stored, bytes([stored[0] ^ 1]) + stored[1:]))
    with pytest.raises(ValueError, match=r"sketch\.npz does not hold predictions"):
        Predictions.load(path)
    with path.open("wb") as file:  # a single array
        np.save(file, np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"sketch\.npz does not hold predictions"):
        Predictions.load(path)


@pytest.mark.parametrize(
    "absent", ["class_logits", "labels", "columns", "columns_of_each", "dataset", "fingerprint"]
)
def test_a_file_without_one_of_its_parts_names_that_part(tmp_path: Path, absent: str):
    path = saved(tmp_path)
    parts = parts_of(path)
    del parts[absent]
    np.savez(path, **parts)
    with pytest.raises(ValueError, match=rf"sketch\.npz does not hold predictions.*{absent}"):
        Predictions.load(path)


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize(
    "damage",
    [
        {"labels": np.zeros(3, dtype=np.int64)},
        {"columns": np.array([0, 2])},
        {"columns": np.array([0, 0])},
        {"columns": np.array([0])},
        {"columns": np.array([0.0, 1.0])},
        {"columns_of_each": np.array([2, 0])},
        {"columns_of_each": np.array([], dtype=int)},
        {"class_logits": np.float32(1)},
        {"class_logits": np.zeros((2, 3), dtype=np.float32), "labels": np.array([0, 2])},
    ],
    ids=str,
)
def test_a_file_whose_arrays_do_not_fit_is_refused(tmp_path: Path, damage: dict):
    path = saved(tmp_path)
    np.savez(path, **(parts_of(path) | damage))
    with pytest.raises(ValueError, match=r"sketch\.npz does not hold predictions"):
        Predictions.load(path)


def test_an_interrupted_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = saved(tmp_path)
    before = path.read_bytes()

    def full_disk(file, **arrays):
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(OSError, match="no space"):
        shorten().save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((2, 3)), np.zeros(3, dtype=int), "do not fit"),
        (np.zeros(3), np.zeros(3, dtype=int), r"logits must be \[N, 3\], got \[3\]"),
        (np.zeros((2, 3)), np.zeros((2, 1), dtype=int), "do not fit"),
        (np.zeros((0, 3)), np.zeros(0, dtype=int), r"logits must be \[N, K\]"),
        (np.zeros((2, 0)), np.zeros(2, dtype=int), r"logits must be \[N, 1\], got \[2, 0\]"),
        (np.array([[0, np.nan]]), np.array([0]), "must be finite"),
        (np.array([[0, -np.inf]]), np.array([0]), "must be finite"),
        (np.zeros((2, 3)), np.array([0, 3]), r"labels must be in \[0, 3\)"),
        (np.zeros((2, 3)), np.array([-1, 0]), r"labels must be in \[0, 3\)"),
    ],
)
@pytest.mark.usefixtures("_no_type_checker")
def test_arrays_that_make_no_predictions_are_refused_with_the_sets_name(
    logits: np.ndarray, labels: np.ndarray, message: str
):
    with pytest.raises(ValueError, match=rf"predictions on sketch: .*{message}"):
        shorten(logits, labels)


def test_logits_of_another_number_of_classes_than_the_label_space_are_refused():
    with pytest.raises(ValueError, match=r"on sketch: logits must be \[N, 5\], got"):
        shorten(np.zeros((2, 4)), np.zeros(2, dtype=int), COARSE)


def test_labels_are_of_the_sets_own_classes():
    with pytest.raises(ValueError, match=r"on sketch: labels must be in \[0, 2\)"):
        shorten(np.zeros((2, 5)), np.array([0, 2]), COARSE)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
def test_a_temperature_that_is_not_positive_and_finite_is_refused(temperature: float):
    with pytest.raises(ValueError, match="temperature must be positive and finite, got"):
        shorten().confidences(temperature)


def test_confidence_is_the_largest_probability_and_temperature_two_takes_square_roots():
    confidences, correct = shorten().confidences()
    # probabilities .6 and .4, label 0: right; .1 and .9, label 0: wrong
    np.testing.assert_allclose(confidences, [0.6, 0.9], rtol=1e-6)
    assert correct.tolist() == [True, False]
    assert confidences.dtype == np.float64
    # sqrt .6 / (sqrt .6 + sqrt .4) = .7746 / 1.4071 = .5505;
    # sqrt .9 / (sqrt .9 + sqrt .1) = .9487 / 1.2649 = .75
    confidences, correct = shorten().confidences(temperature=2.0)
    np.testing.assert_allclose(confidences, [0.5505, 0.75], atol=5e-5)
    assert correct.tolist() == [True, False]


def test_runs_on_other_images_are_refused_with_their_names_and_the_sets():
    check_same_images("sketch", {"zs": "abc", "ft": "abc"})
    with pytest.raises(ValueError, match=r"set sketch .*zs \(abc\), ft \(abc\), carot \(abd\)"):
        check_same_images("sketch", {"zs": "abc", "ft": "abc", "carot": "abd"})
