"""Captions: media of the templates, and tokens by hand and against open_clip's tokenizer."""

import open_clip
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from carot_lib.data.prompts import clip_templates, medium_of, tokenize, tokenize_prompts

START, END = 49406, 49407


def test_tokens_by_hand():
    # from CLIP's vocabulary: a 320, photo 1125, of 539, cat 2368, "." 269
    tokens = tokenize(["a photo of a cat."], context_length=8)  # it fits exactly
    assert tokens.tolist() == [[START, 320, 1125, 539, 320, 2368, 269, END]]
    tokens = tokenize(["cat", "A  Cat. ", "cat"], context_length=77)  # case and spaces are nothing
    assert tokens.tolist() == [
        [START, 2368, END, 0, 0],
        [START, 320, 2368, 269, END],
        [START, 2368, END, 0, 0],
    ]


@given(st.lists(st.text(max_size=6), min_size=1, max_size=4))
def test_the_tokens_are_open_clips_without_the_padding(texts: list[str]):
    expected = open_clip.get_tokenizer("ViT-B-16")(texts)
    tokens = tokenize(texts, context_length=77)
    assert torch.equal(tokens, expected[:, : tokens.shape[1]])
    assert not expected[:, tokens.shape[1] :].any()
    assert tokens[:, -1].any()  # no column for nothing


def test_the_longest_text_is_named_if_it_does_not_fit():
    texts = ["cat", "a photo of a cat.", "a cat."]
    with pytest.raises(ValueError, match=r"'a photo of a cat\.' has 8 tokens, the model takes 7"):
        tokenize(texts, context_length=7)


def test_prompts_are_ordered_by_class_and_template():
    templates = [lambda name: f"{name}.", lambda name: f"a photo of a {name}."]
    prompts = tokenize_prompts(["cat", "dog", "tea pot"], templates, context_length=77)
    assert prompts.shape == (3, 2, 9)  # "a photo of a tea pot.": 7 tokens and the two marks
    assert prompts.dtype == torch.int32
    for i, name in enumerate(["cat", "dog", "tea pot"]):
        for j, template in enumerate(templates):
            alone = tokenize([template(name)], 77)[0]
            assert prompts[i, j, : len(alone)].tolist() == alone.tolist()
            assert not prompts[i, j, len(alone) :].any()


def test_the_longest_prompt_of_imagenet_has_22_tokens():
    # all of ImageNet's names in CLIP's templates fit the model of the paper with room to spare
    templates = clip_templates()
    tokenizer = open_clip.get_tokenizer("ViT-B-16")
    names = sorted(open_clip.IMAGENET_CLASSNAMES, key=lambda n: -len(tokenizer.encode(n)))
    assert tokenize_prompts(names[:5], templates, context_length=77).shape == (5, 80, 22)


def test_the_templates_are_clips_in_their_order():
    clip_templates().clear()  # each caller has a list of its own
    templates = clip_templates()
    assert len({template("cat") for template in templates}) == len(templates) == 80
    assert templates[0]("cat") == "a bad photo of a cat."
    assert templates[-1]("cat") == "a tattoo of the cat."


@pytest.mark.parametrize(
    ("template", "medium"),
    [
        ("a photo of a {}.", "photo"),
        ("itap of my {}.", "photo"),
        ("a {} in a video game.", "poster"),
        ("the origami {}.", "poster"),
        ("art of the {}.", "poster"),
        ("a tattoo of a {}.", "poster"),
        ("a sketch of the {}.", "pencil"),
        ("a doodle of a {}.", "pencil"),
        ("a drawing of a {}.", "pencil"),
    ],
)
def test_the_medium_of_a_template(template: str, medium: str):
    assert medium_of(template.format) == medium
