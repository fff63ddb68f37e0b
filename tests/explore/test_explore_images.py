"""The most confident errors, and an uploaded image."""

from datetime import UTC, datetime
from io import BytesIO

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from carot_lib.calibration.label_space import LabelSpace
from carot_lib.calibration.predictions import Predictions
from carot_lib.explore.images import (
    Answer,
    answer_table,
    browse_errors,
    classify_upload,
    error_page,
    most_confident_errors,
    read_upload,
    top_classes,
)
from carot_lib.models.clip import load_classifier
from carot_lib.report.results import Report

mpl.use("agg")
RUNS = ("zs", "ft", "wise_ft")


def test_the_most_confident_errors_come_first():
    # labels all 0: images 1, 2 and 3 are wrong, and 2 is the most confident
    logits = np.array([[9.0, 0.0], [0.0, 1.0], [0.0, 5.0], [0.0, 3.0]], np.float32)
    predictions = Predictions(logits, np.zeros(4, int), LabelSpace.identity(2), "x", "0")
    for temperature in (1.0, 5.0):  # a temperature changes no order here
        answers = answer_table(predictions, ["cat", "dog"], temperature)
        assert most_confident_errors(answers) == [2, 3, 1]
        confidence = pytest.approx(1 / (1 + np.exp(-5 / temperature)))
        assert Answer(*answers.loc[2]) == ("dog", confidence, False)
    assert most_confident_errors(answers.iloc[:1]) == []


def test_a_page_shows_each_image_with_the_answers_of_every_model():
    image = np.zeros((32, 32, 3), np.uint8)
    long = Answer("a name that is longer than thirty letters", 1.0, False)
    answers = {"ZS": Answer("cat", 0.25, True), "FT": long}
    figure = error_page("a title", [image] * 2, ["dog", "cow"], [answers] * 2)
    images, bars = figure.axes[::2], figure.axes[1::2]
    assert [ax.get_title(loc="left") for ax in images] == ["dog", "cow"]
    words = [text.get_text() for text in bars[0].texts]
    assert words == ["cat", "0.25", "ZS", "a name that is longe…", "1.00", "FT"]
    assert [patch.get_width() for patch in bars[0].patches] == [1, 1, 0.25, 1.0]
    assert error_page("FT errs on 0 of 5 images", [], [], []).axes == []


def test_leafing_through_the_errors(report: Report):
    shown = browse_errors(report, RUNS)
    (which_set, whose, scaled), (page,) = (row.children for row in shown.children[:2])
    assert [name for _, name in which_set.options] == ["id_test", "rotated"]
    predictions = Predictions.load(report.layout.predictions("ft", 0, "id_test"))
    wrong = int((predictions.logits.argmax(axis=1) != predictions.labels).sum())
    assert wrong > 6  # more than one page
    assert page.max == -(-wrong // 6)
    first = shown.picture.value
    page.value = 2
    assert shown.picture.value != first
    page.value = page.max + 1
    assert page.value == page.max  # and no further
    page.value = 1
    assert shown.picture.value == first
    scaled.value = True
    assert shown.picture.value != first
    scaled.value = False
    page.value = 2
    whose.value = "zs"
    assert page.value == 1
    which_set.value = "rotated"
    assert shown.picture.value != first


def test_images_and_predictions_of_different_sets_are_not_shown(report: Report):
    path = report.layout.predictions("ft", 0, "id_test")
    report.layout.predictions("ft", 0, "rotated").replace(path)
    with pytest.raises(ValueError, match="set id_test is not the same for all runs"):
        browse_errors(report, RUNS)


def file(image: Image.Image, kind: str, **options: object) -> bytes:
    content = BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "1"])
def test_images_of_every_mode_are_read(mode: str):
    image = Image.new("RGB", (9, 5), (200, 10, 10)).convert(mode)
    read = read_upload("x", file(image, "tiff"))
    assert (read.mode, read.size) == ("RGB", (9, 5))


def test_a_photograph_is_rotated_as_its_metadata_says():
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: a quarter turn
    assert read_upload("x", file(Image.new("RGB", (9, 5)), "jpeg", exif=exif)).size == (5, 9)


DAMAGED = file(Image.new("RGB", (64, 64), "red"), "png")[:60]


@pytest.mark.parametrize("content", [b"", b"not an image", DAMAGED])
def test_a_file_that_is_not_an_image_is_named(content: bytes):
    message = r"^notes\.txt is not an image that can be read: choose a PNG, JPEG, GIF or WebP file"
    with pytest.raises(ValueError, match=message):
        read_upload("notes.txt", content)


def test_the_most_probable_classes_are_the_softmax_of_the_scaled_logits(report: Report):
    classifier = load_classifier(report.layout.model("ft", 0))
    grey = Image.new("RGB", (50, 32), (128, 128, 128))
    one, two = (top_classes(classifier, grey, ["a", "b", "c", "d"], t) for t in (1.0, 2.0))
    assert [answer.name for answer in one] == [answer.name for answer in two]
    assert len(one) == 4  # all that there are
    assert sum(answer.confidence for answer in one) == pytest.approx(1)
    odds = [np.log(best.confidence / last.confidence) for best, *_, last in (one, two)]
    assert odds[0] == pytest.approx(2 * odds[1])


def test_an_uploaded_image_replaces_the_example_and_a_text_does_not(report: Report):
    shown = classify_upload(report, RUNS)
    upload, message = shown.children[0].children
    example = shown.picture.value
    about = {"type": "", "size": 1, "last_modified": datetime.now(UTC)}
    upload.value = ({"name": "notes.txt", "content": memoryview(b"words"), **about},)
    assert message.value.startswith("notes.txt is not an image")
    assert shown.picture.value == example
    red = file(Image.new("RGB", (300, 200), "red"), "png")
    upload.value = ({"name": "red.png", "content": memoryview(red), **about},)
    assert message.value == ""
    assert shown.picture.value != example
