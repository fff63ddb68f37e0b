"""From images to logits: every image once, in order, in evaluation mode, whatever the batches."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import labelled_set
from torch import Tensor

from carot_lib.calibration.label_space import LabelSpace
from carot_lib.data.datasets import LabelledSet, normalise, write_set
from carot_lib.files import write_json
from carot_lib.models import inference
from carot_lib.models.clip import Clip, ImageClassifier
from carot_lib.models.inference import predict_logits

CPU = torch.device("cpu")


def pictures(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)


def labelled(n: int, space: LabelSpace | None = None) -> LabelledSet:
    one = labelled_set("sketch", n)
    return replace(one, images=pictures(n), label_space=space or one.label_space)


@pytest.fixture
def classifier(make_clip: Callable[[], Clip], class_prompts: Tensor) -> ImageClassifier:
    return make_clip().zero_shot_classifier(class_prompts)


@torch.no_grad()
def expected(classifier: ImageClassifier, n: int) -> np.ndarray:
    return classifier.eval()(normalise(torch.from_numpy(pictures(n)))).numpy()


def test_the_logits_are_the_classifiers(classifier: ImageClassifier):
    logits = predict_logits(classifier, labelled(7), CPU)
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits, expected(classifier, 7))
    assert len(np.unique(logits, axis=0)) == 7  # each image has its own


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8])
def test_the_batches_do_not_show(
    classifier: ImageClassifier, monkeypatch: pytest.MonkeyPatch, size: int
):
    monkeypatch.setattr(inference, "BATCH_SIZE", size)
    seen = []
    classifier.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    logits = predict_logits(classifier, labelled(7), CPU)
    # whole batches, then the rest
    assert seen == [size] * (7 // size) + [7 % size] * (7 % size > 0)
    np.testing.assert_allclose(logits, expected(classifier, 7), rtol=1e-5, atol=1e-6)


def test_a_set_with_classes_of_its_own_keeps_all_columns(classifier: ImageClassifier):
    # the label space is applied where predictions are judged
    logits = predict_logits(classifier, labelled(4, LabelSpace(3, ((0, 2), (1,)))), CPU)
    np.testing.assert_array_equal(logits, expected(classifier, 4))


def test_a_classifier_in_training_mode_is_set_to_evaluation_mode(classifier: ImageClassifier):
    rested = expected(classifier, 6)
    classifier.train()
    before = {key: value.clone() for key, value in classifier.state_dict().items()}
    np.testing.assert_array_equal(predict_logits(classifier, labelled(6), CPU), rested)
    # BatchNorm has neither used nor moved its statistics
    assert not classifier.training
    assert all(torch.equal(before[k], v) for k, v in classifier.state_dict().items())


def test_no_graph_is_kept(classifier: ImageClassifier):
    outputs = []
    classifier.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    predict_logits(classifier, labelled(2), CPU)
    assert [output.requires_grad for output in outputs] == [False]
    assert all(parameter.requires_grad for parameter in classifier.parameters())


def test_half_precision_comes_back_in_full(classifier: ImageClassifier):
    class Halved(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return classifier(images).bfloat16()

    halved = ImageClassifier(classifier.visual, classifier.head.weight.detach(), classifier.config)
    halved.forward = Halved().forward
    logits = predict_logits(halved, labelled(3), CPU)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected(classifier, 3), rtol=0.01, atol=0.05)


def test_the_progress_names_the_set(
    classifier: ImageClassifier, capsys: pytest.CaptureFixture[str]
):
    predict_logits(classifier, labelled(2), CPU)
    assert "predicting sketch: 1/1 batches" in capsys.readouterr().err


def test_files_have_the_logits_of_their_pictures(classifier: ImageClassifier, tmp_path: Path):
    paths = [f"{i}.png" for i in range(7)]
    for path, picture in zip(paths, pictures(7), strict=True):
        Image.fromarray(picture).save(tmp_path / path)
    files = replace(labelled(7), images=None, paths=np.array(paths), image_folder=tmp_path)
    logits = predict_logits(classifier, files, CPU)
    np.testing.assert_allclose(logits, expected(classifier, 7), atol=1e-5)


@pytest.fixture(scope="module")
def predicted(
    tmp_path_factory: pytest.TempPathFactory, run_processes: Callable[[str, Path], None]
) -> Path:
    """What one, two and four gloo processes predicted of the same sets, in batches of two."""
    folder = tmp_path_factory.mktemp("predicted")
    write_json(folder / "classes.json", {"class_names": list("abcde"), "label_spaces": {}})
    for size in (1, 2, 3, 4, 9, 16, 23):
        images = pictures(size)[:, :16, :16]
        paths = [f"{size}-{i}.png" for i in range(size)]
        for path, image in zip(paths, images, strict=True):
            Image.fromarray(image).save(folder / path)
        labels = np.zeros(size, dtype=np.int64)
        write_set(folder, f"memory{size}", labels, images=images)
        write_set(folder, f"files{size}", labels, paths=paths)
    run_processes("many_predictors.py", folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4])
def test_many_processes_have_the_logits_of_one_to_the_bit(predicted: Path, devices: int):
    shares = []
    with np.load(predicted / "predicted-1-0.npz") as expected:
        sets = [name for name in expected.files if "seen" not in name]
        assert len(sets) == 8
        for rank in range(devices):
            with np.load(predicted / f"predicted-{devices}-{rank}.npz") as found:
                assert found.files == expected.files
                for name in sets:
                    # every process is given all: uneven shares, and fewer batches than processes
                    size = int(name.removeprefix("memory").removeprefix("files"))
                    assert expected[name].shape == (size, 5)
                    np.testing.assert_array_equal(found[name], expected[name])
                shares.append({name: found[f"{name} seen"].tolist() for name in sets})
        for name in sets:  # all processes together saw each batch of the one once
            seen = [batch for share in shares for batch in share[name]]
            assert seen == expected[f"{name} seen"].tolist()
    # nine images: batches of 2, 2, 2, 2 and 1
    two, four = [[2, 2, 2], [2, 1]], [[2, 2], [2], [2], [1]]
    assert [share["memory9"] for share in shares] == {2: two, 4: four}[devices]
    assert [share["memory1"] for share in shares] == [[1]] + [[]] * (devices - 1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_logits(classifier: ImageClassifier):
    expect = expected(classifier, 7)
    logits = predict_logits(classifier, labelled(7), torch.device("cuda"))
    np.testing.assert_allclose(logits, expect, rtol=1e-2, atol=1e-2)  # TF32 has 10 bits
