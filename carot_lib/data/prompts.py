"""Captions: CLIP's own 80 templates around class names, and their tokens."""

import functools
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Int
from open_clip import OPENAI_IMAGENET_TEMPLATES
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

Template = Callable[[str], str]

# Words of CLIP's templates that name a medium; a template with none of them describes a photo.
_PENCIL_WORDS = ("sketch", "drawing", "doodle")
_POSTER_WORDS = (
    "rendering", "rendition", "sculpture", "painting", "graffiti", "cartoon", "art of",
    "embroidered", "origami", "plushie", "plastic", "toy", "video game", "tattoo",
)  # fmt: skip


def clip_templates() -> list[Template]:
    """The 80 prompt templates of CLIP for ImageNet, in their published order."""
    return list(OPENAI_IMAGENET_TEMPLATES)


def as_templates(texts: Sequence[str]) -> list[Template]:
    """Make prompt templates of texts in which `{}` stands for the class name."""
    return [functools.partial(str.replace, text, "{}") for text in texts]


def medium_of(template: Template) -> str:
    """Medium that a template describes: `photo`, `poster` or `pencil`."""
    words = template("")
    if any(word in words for word in _PENCIL_WORDS):
        return "pencil"
    if any(word in words for word in _POSTER_WORDS):
        return "poster"
    return "photo"


def tokenize(texts: Sequence[str], context_length: int) -> Int[Tensor, "texts context"]:
    """Token ids of CLIP's byte-pair encoding, padded with 0 to the longest text.

    Args:
        texts: captions.
        context_length: maximum number of tokens, start and end token included.

    Raises:
        ValueError: a text has more tokens; open_clip's tokenizer would truncate it silently.
    """
    tokenizer = SimpleTokenizer()
    start, end = tokenizer.sot_token_id, tokenizer.eot_token_id
    tokens = [torch.tensor([start, *tokenizer.encode(text), end]) for text in texts]
    for text, row in zip(texts, tokens, strict=True):
        if len(row) > context_length:
            raise ValueError(f"{text!r} has {len(row)} tokens, the model takes {context_length}")
    return pad_sequence(tokens, batch_first=True)


def tokenize_prompts(
    class_names: Sequence[str], templates: Sequence[Template], context_length: int
) -> Int[Tensor, "classes templates context"]:
    """Token ids of every class name in every template, see `tokenize`."""
    texts = [template(name) for name in class_names for template in templates]
    tokens = tokenize(texts, context_length)
    return tokens.view(len(class_names), len(templates), tokens.shape[1]).to(torch.int32)
