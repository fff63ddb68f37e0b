"""The browser of mistakes, and a picture of one's own."""

from datetime import UTC, datetime
from io import BytesIO

import numpy as np
import pytest
from carot_lib.explore.mistakes import Answer, answer_bars, explore_mistakes, mistakes_page
from carot_lib.explore.own_image import explore_own_image, read_upload, top_classes
from PIL import Image

from carot_lib.calibration.label_space import LabelSpace
from carot_lib.calibration.predictions import Predictions
from carot_lib.models.clip import load_classifier
from carot_lib.report.results import Report

RUNS = ("zs", "ft", "wise_ft")


def test_the_surest_mistakes_come_first():
    # labels all 0: images 1, 2 and 3 are wrong, and 2 is the surest
    logits = np.array([[9.0, 0.0], [0.0, 1.0], [0.0, 5.0], [0.0, 3.0]], np.float32)
    made = Predictions(logits, np.zeros(4, int), LabelSpace.identity(2), "x", "0")
    answer = Answer(made)
    assert answer.most_confident_errors().tolist() == [2, 3, 1]
    assert answer.predicted.tolist() == [0, 1, 1, 1]
    warm = Answer(made, temperature=5.0)
    assert warm.most_confident_errors().tolist() == [2, 3, 1]  # a temperature changes no order here
    assert warm.confidences[2] == pytest.approx(1 / (1 + np.exp(-1)))
    right = Answer(Predictions(logits, np.array([0, 1, 1, 1]), LabelSpace.identity(2), "x", "0"))
    assert len(right.most_confident_errors()) == 0


def test_a_page_says_of_each_picture_what_every_model_says():
    picture = np.zeros((32, 32, 3), np.uint8)
    said = {
        "ZS": ("cat", 0.25, True),
        "FT": ("a name that is longer than thirty letters", 1.0, False),
    }
    figure = mistakes_page("a title", [picture] * 2, ["dog", "cow"], [said] * 2)
    pictures, bars = figure.axes[::2], figure.axes[1::2]
    assert [ax.get_title(loc="left") for ax in pictures] == ["dog", "cow"]
    words = [text.get_text() for text in bars[0].texts]
    assert words == ["cat", "0.25", "ZS", "a name that is longer than th…", "1.00", "FT"]
    assert [patch.get_width() for patch in bars[0].patches[:2]] == [0.25, 1.0]


def test_a_page_without_a_mistake_is_a_page():
    figure = mistakes_page("FT errs on 0 of 5 images", [], [], [])
    assert figure.axes == []
    answer_bars(figure.subplots(), {})


def test_leafing_through_the_mistakes(report: Report):
    exhibit = explore_mistakes(report, RUNS)
    (which_set, whose, scaled), (page, of_all, back, on) = (
        row.children for row in exhibit.widget.children[:2]
    )
    assert [name for _, name in which_set.options] == ["id_test", "rotated"]
    made = Predictions.load(report.layout.predictions("ft", 0, "id_test"))
    wrong = int((made.logits.argmax(axis=1) != made.labels).sum())
    assert wrong > 6  # so there are pages
    assert page.max == -(-wrong // 6)
    assert of_all.value == f"of {page.max}"
    first = exhibit.picture.value
    on.click()
    assert page.value == 2
    second = exhibit.picture.value
    assert second != first
    for _ in range(page.max):
        on.click()
    assert page.value == page.max  # and no further
    for _ in range(page.max):
        back.click()
    assert page.value == 1
    assert exhibit.picture.value == first
    scaled.value = True
    assert exhibit.picture.value != first
    scaled.value = False
    on.click()
    whose.value = "zs"
    assert page.value == 1
    which_set.value = "rotated"
    assert exhibit.picture.value != first


def test_pictures_and_predictions_of_different_sets_are_not_shown(report: Report):
    path = report.layout.predictions("ft", 0, "id_test")
    report.layout.predictions("ft", 0, "rotated").replace(path)
    with pytest.raises(ValueError, match="set id_test is not the same for all runs"):
        explore_mistakes(report, RUNS)


def file(picture: Image.Image, kind: str, **options: object) -> bytes:
    content = BytesIO()
    picture.save(content, kind, **options)
    return content.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "1"])
def test_pictures_of_every_mode_are_read(mode: str):
    picture = Image.new("RGB", (9, 5), (200, 10, 10)).convert(mode)
    read = read_upload("x", file(picture, "tiff"))
    assert (read.mode, read.size) == ("RGB", (9, 5))


def test_a_photograph_is_turned_as_its_camera_was_held():
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: a quarter turn
    assert read_upload("x", file(Image.new("RGB", (9, 5)), "jpeg", exif=exif)).size == (5, 9)


NO_PICTURES = [b"", b"not a picture", file(Image.new("RGB", (64, 64), "red"), "png")[:60]]


@pytest.mark.parametrize("content", NO_PICTURES)
def test_what_is_no_picture_is_said_by_its_name(content: bytes):
    said = r"^notes\.txt is not a picture that can be read: choose a PNG, JPEG, GIF or WebP file\.$"
    with pytest.raises(ValueError, match=said):
        read_upload("notes.txt", content)


def test_the_likeliest_classes_are_the_softmax_of_the_scaled_logits(report: Report):
    classifier = load_classifier(report.layout.model("ft", 0))
    grey = Image.new("RGB", (50, 32), (128, 128, 128))
    names = ["a", "b", "c", "d"]
    one, two = (top_classes(classifier, grey, names, t) for t in (1.0, 2.0))
    assert [name for name, _ in one] == [name for name, _ in two]
    assert len(one) == 4  # all that there are
    assert sum(p for _, p in one) == pytest.approx(1)
    odds = [np.log(found[0][1] / found[-1][1]) for found in (one, two)]
    assert odds[0] == pytest.approx(2 * odds[1])


def test_an_upload_takes_the_place_of_the_example_and_a_text_does_not(report: Report):
    exhibit = explore_own_image(report, RUNS)
    upload, said = exhibit.widget.children[0].children
    example = exhibit.picture.value
    about = {"type": "", "size": 1, "last_modified": datetime.now(UTC)}
    upload.value = ({"name": "notes.txt", "content": memoryview(b"words"), **about},)
    assert said.value.startswith("notes.txt is not a picture")
    assert exhibit.picture.value == example
    red = file(Image.new("RGB", (300, 200), "red"), "png")
    upload.value = ({"name": "red.png", "content": memoryview(red), **about},)
    assert said.value == ""
    assert exhibit.picture.value != example
