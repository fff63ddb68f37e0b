"""Each method against a plain transcription of the paper's equations, weight by weight.

The transcriptions share no code with carot_lib: open_clip's own encoders at full context, torch's
own losses and optimizer, and the schedule written out. In double precision: where a gradient is
zero but for rounding (the bias of an attention's keys), Adam makes a step of the rounding.
"""

import copy
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from tiny import run
from torch import Tensor, nn

from carot_lib.data.prompts import clip_templates, tokenize_prompts
from carot_lib.methods.base import Batch, Method, Setup
from carot_lib.models.clip import Clip, ImageClassifier
from carot_lib.params import MethodParams
from carot_lib.training.loop import Log, fit
from carot_lib.training.optimizer import build_optimizer

STEPS, BATCH, CLASSES, TEMPLATES = 5, 8, 5, 80
RATE, DECAY, WARMUP = 1e-3, 0.1, 2


@pytest.fixture(scope="module")
def data() -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [
        Batch(
            torch.randn(BATCH, 3, 32, 32, generator=generator).double(),
            torch.randint(CLASSES, (BATCH,), generator=generator),
            torch.randint(TEMPLATES, (BATCH,), generator=generator),
        )
        for _ in range(STEPS)
    ]


@pytest.fixture
def tiny_clip(make_clip: Callable[[], Clip]) -> Clip:
    return make_clip().double().eval()


@pytest.fixture(scope="module")
def class_prompts() -> Tensor:
    """Five classes in CLIP's 80 templates."""
    names = ["umbrella", "snowman", "black chess queen", "digit six", "anchor"]
    return tokenize_prompts(names, clip_templates(), context_length=32)


def entry(kind: str, **numbers: object) -> MethodParams:
    return run(kind, **{"learning_rate": RATE, "sampling": "pairs", **numbers})


def ema(start: float, end: float, warmup: float, every: int | None, at_0: bool = False) -> dict:
    return {
        "momentum_start": start,
        "momentum_end": end,
        "momentum_warmup": warmup,
        "update_every": every,
        "update_at_step_0": at_0,
    }


def build(params: MethodParams, clip: Clip, prompts: Tensor) -> Method:
    return params.build(Setup(copy.deepcopy(clip), prompts, STEPS))


def train(
    params: MethodParams,
    clip: Clip,
    prompts: Tensor,
    data: list[Batch],
    log: Log = lambda record: None,
) -> Method:
    """Five steps by carot_lib."""
    method = build(params, clip, prompts)
    method.model.double()  # the head of a classifier is made in single precision
    optimizer = build_optimizer(params.parameter_groups(method.model), DECAY)
    clipping = params.clip_gradient_norm
    fabric = Fabric(accelerator="cpu", devices=1)
    fit(method, data, STEPS, optimizer, WARMUP, clipping, fabric, log)
    return method


def rate(step: int) -> float:
    """Linear warm-up over 2 steps, then half a cosine over the other 3; steps count from 0."""
    return RATE * [1 / 2, 1, 1, 0.5 * (1 + math.cos(math.pi / 3)), 0.25][step]


def descend(
    model: nn.Module,
    loss_of: Callable[[Batch], Tensor],
    data: list[Batch],
    clip_at: float | None,
    after: Callable[[int], None] = lambda step: None,
) -> None:
    """AdamW over everything, by hand but for the optimizer."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # with the statistics of the pre-training
            module.eval()
    for step, batch in enumerate(data):
        optimizer.param_groups[0]["lr"] = rate(step)
        optimizer.zero_grad()
        loss_of(batch).backward()
        if clip_at is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip_at)
        optimizer.step()
        after(step + 1)


def assert_same_weights(ours: nn.Module, theirs: nn.Module) -> None:
    expected = theirs.state_dict()
    assert ours.state_dict().keys() == expected.keys()
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6, msg=name)


def full_captions(prompts: Tensor, batch: Batch) -> Tensor:
    """Captions padded to the whole context, as open_clip's own text tower wants them."""
    tokens = prompts[batch.labels, batch.templates].long()
    return F.pad(tokens, (0, 32 - tokens.shape[1]))


def cosine_logits(model: nn.Module, prompts: Tensor, batch: Batch) -> Tensor:
    """exp(scale) * <image, text> with open_clip's own encoders."""
    image = model.encode_image(batch.images, normalize=True)
    text = model.encode_text(full_captions(prompts, batch), normalize=True)
    return model.logit_scale.exp() * image @ text.T


def symmetric_cross_entropy(logits: Tensor, smoothing: float) -> Tensor:
    """Mean over both directions of -sum_j y_ij log q_ij, y = (1 - e) * one-hot + e / B."""
    n = len(logits)
    target = (1 - smoothing) * torch.eye(n) + smoothing / n
    image = -(target * logits.log_softmax(dim=1)).sum(dim=1).mean()
    text = -(target * logits.T.log_softmax(dim=1)).sum(dim=1).mean()
    return (image + text) / 2


def zero_shot_head(model: nn.Module, prompts: Tensor) -> Tensor:
    """Unit-length mean of the unit-length features of each class's prompts, times the scale."""
    rows = []
    with torch.no_grad():
        for tokens in prompts:
            padded = F.pad(tokens.long(), (0, 32 - tokens.shape[1]))
            mean = model.encode_text(padded, normalize=True).mean(dim=0)
            rows.append(model.logit_scale.exp() * mean / mean.norm())
    return torch.stack(rows)


class PlainClassifier(nn.Module):
    def __init__(self, visual: nn.Module, head: Tensor):
        super().__init__()
        self.visual = copy.deepcopy(visual)
        self.head = nn.Linear(head.shape[1], head.shape[0], dtype=torch.double)
        self.head.weight.data.copy_(head.float())
        self.head.bias.data.zero_()

    def forward(self, images: Tensor) -> Tensor:
        features = self.visual(images)
        return self.head(features / features.norm(dim=1, keepdim=True))


@pytest.mark.parametrize(("smoothing", "clip_at"), [(0.0, 1.0), (0.2, None)])
def test_ft_follows_the_equations(
    tiny_clip: Clip, class_prompts: Tensor, data: list[Batch], smoothing: float, clip_at: float
):
    params = entry("fine_tune", label_smoothing=smoothing, clip_gradient_norm=clip_at)
    ours = train(params, tiny_clip, class_prompts, data)

    head = zero_shot_head(tiny_clip.model, class_prompts)
    plain = PlainClassifier(tiny_clip.model.visual, head)

    def loss_of(batch: Batch) -> Tensor:
        log_q = plain(batch.images).log_softmax(dim=1)
        target = (1 - smoothing) * F.one_hot(batch.labels, CLASSES) + smoothing / CLASSES
        return -(target * log_q).sum(dim=1).mean()

    descend(plain, loss_of, data, clip_at)
    assert_same_weights(ours.model, plain)
    assert ours.classifier() is ours.model


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_flyp_follows_the_equations(
    tiny_clip: Clip, class_prompts: Tensor, data: list[Batch], smoothing: float
):
    params = entry("flyp", label_smoothing=smoothing)
    ours = train(params, tiny_clip, class_prompts, data)

    plain = copy.deepcopy(tiny_clip.model)
    descend(
        plain,
        lambda batch: symmetric_cross_entropy(
            cosine_logits(plain, class_prompts, batch), smoothing
        ),
        data,
        None,
    )
    assert_same_weights(ours.model.model, plain)
    assert_head_is_of_the_trained_text_tower(ours, plain, class_prompts)


@pytest.mark.parametrize(
    ("update_every", "reduction", "at_0"),
    [
        (1, "paper", False),
        (2, "paper", False),
        (None, "paper", False),
        (2, "code", False),
        (2, "code", True),  # the public code numbers the steps 0 to 4, of which 0, 2 and 4 are due
    ],
)
def test_carot_follows_the_equations(
    tiny_clip: Clip,
    class_prompts: Tensor,
    data: list[Batch],
    update_every: int | None,
    reduction: str,
    at_0: bool,
):
    params = entry("carot", kd_reduction=reduction, **ema(0.05, 0.9, 0.6, update_every, at_0))
    ours = train(params, tiny_clip, class_prompts, data)
    directions = 2 if reduction == "paper" else 1  # mean over both directions, or their sum
    student = copy.deepcopy(tiny_clip.model)
    slow = copy.deepcopy(tiny_clip.model).eval()

    def loss_of(batch: Batch) -> Tensor:
        logits = cosine_logits(student, class_prompts, batch)
        with torch.no_grad():
            target = cosine_logits(slow, class_prompts, batch)
        kl = 0.0
        for p, q in ((target, logits), (target.T, logits.T)):
            p, log_q = p.softmax(dim=1), q.log_softmax(dim=1)
            kl = kl + (p * (p.log() - log_q)).sum(dim=1).mean() / directions
        return symmetric_cross_entropy(logits, 0.0) + 0.75 * kl

    def after(step: int) -> None:
        number = step - at_0
        if update_every is not None and number % update_every == 0:
            follow(slow, student, momentum(number))

    descend(student, loss_of, data, None, after)
    assert_same_weights(ours.model.model, student)
    assert_same_weights(ours.teacher.model.model, slow)
    assert_head_is_of_the_trained_text_tower(ours, student, class_prompts)


def test_a_teacher_that_is_its_student_changes_nothing(
    tiny_clip: Clip, class_prompts: Tensor, data: list[Batch]
):
    # momentum 0 at every step: no distillation is left but rounding, and CaRot is FLYP
    records: list[dict[str, float]] = []
    params = entry("carot", **ema(0.0, 0.0, 0.0, 1))
    ours = train(params, tiny_clip, class_prompts, data, records.append)
    flyp = train(entry("flyp", label_smoothing=0.0), tiny_clip, class_prompts, data)
    assert [abs(record["distillation"]) < 1e-13 for record in records] == [True] * STEPS
    student = ours.model.state_dict()
    assert all(torch.equal(v, student[k]) for k, v in ours.teacher.model.state_dict().items())
    assert_same_weights(ours.model, flyp.model)


@pytest.mark.parametrize("kind", ["flyp", "carot"])
def test_the_logit_scale_stays_in_its_bound(
    tiny_clip: Clip, class_prompts: Tensor, data: list[Batch], kind: str
):
    numbers = ema(0.0, 0.0, 0.0, 1) if kind == "carot" else {"label_smoothing": 0.0}
    ours, free, unbounded = (
        train(entry(kind, max_logit_scale=bound, **numbers), tiny_clip, class_prompts, data)
        for bound in (9.5, 100.0, None)
    )
    # it starts at 1 / .07 = 14.3, and a step changes it by about one learning rate of .001
    assert 9.4 < ours.model.logit_scale.item() < 9.50001
    if kind == "carot":  # its teacher, here a copy of the student, follows the bounded one
        assert torch.equal(ours.teacher.model.logit_scale, ours.model.logit_scale)
    with torch.no_grad():
        ours.model.model.logit_scale.fill_(3.0)  # e ** 3 = 20
    scalars = ours.after_step(1)
    assert ours.model.logit_scale.item() == pytest.approx(9.5)
    assert scalars["model/logit_scale"].item() == pytest.approx(9.5)  # after the bound
    assert not scalars["model/logit_scale"].requires_grad
    assert free.model.logit_scale.item() > 10
    assert torch.equal(free.model.logit_scale, unbounded.model.logit_scale)


def momentum(step: int) -> float:
    """.05 to .9 over 60 % of 5 steps = 3 steps: .05 + .85 * step / 3, then .9."""
    return min(0.05 + 0.85 * step / 3, 0.9)


def follow(slow: nn.Module, fast: nn.Module, alpha: float) -> None:
    """Psi <- alpha * psi + (1 - alpha) * theta; BatchNorm's statistics are the same in both."""
    with torch.no_grad():
        for psi, theta in zip(slow.parameters(), fast.parameters(), strict=True):
            psi.copy_(alpha * psi + (1 - alpha) * theta)


def assert_head_is_of_the_trained_text_tower(
    ours: Method, plain: nn.Module, prompts: Tensor
) -> None:
    classifier = ours.classifier()
    assert isinstance(classifier, ImageClassifier)
    head = zero_shot_head(plain.eval(), prompts)
    torch.testing.assert_close(classifier.head.weight, head.float(), rtol=1e-5, atol=1e-6)
    assert not classifier.head.bias.any()


def test_the_cached_captions_of_the_teacher_change_no_weight(
    tiny_clip: Clip, class_prompts: Tensor, data: list[Batch]
):
    method = build(entry("carot", **ema(0.5, 0.5, 0.0, 2)), tiny_clip, class_prompts)
    for batch in data[:3]:
        cached, again = (method.encode(batch)["teacher_text"] for _ in range(2))
        captions = class_prompts[batch.labels, batch.templates]
        fresh = method.teacher.model.encode_texts(captions)
        torch.testing.assert_close(cached, fresh)
        assert torch.equal(cached, again)


def test_an_update_of_the_teacher_forgets_its_captions(
    tiny_clip: Clip, class_prompts: Tensor, data: list[Batch]
):
    method = build(entry("carot", **ema(0.0, 0.0, 0.0, 1)), tiny_clip, class_prompts)
    method.encode(data[0])
    with torch.no_grad():
        method.model.model.text_projection.add_(1.0)
    method.after_step(1)
    captions = class_prompts[data[0].labels, data[0].templates]
    encoded = method.encode(data[0])
    torch.testing.assert_close(encoded["teacher_text"], method.teacher.model.encode_texts(captions))
    torch.testing.assert_close(
        encoded["teacher_image"], method.teacher.model.encode_images(data[0].images)
    )


def test_a_caption_is_encoded_once_between_two_updates_of_the_teacher(
    tiny_clip: Clip, class_prompts: Tensor, data: list[Batch], monkeypatch: pytest.MonkeyPatch
):
    method = build(entry("carot", **ema(0.0, 0.0, 0.0, 2)), tiny_clip, class_prompts)
    encoded = []
    encode = method.teacher.model.encode_texts
    monkeypatch.setattr(
        method.teacher.model,
        "encode_texts",
        lambda tokens: encoded.append(len(tokens)) or encode(tokens),
    )
    pairs = set(zip(data[0].labels.tolist(), data[0].templates.tolist(), strict=True))
    method.encode(data[0])
    method.encode(data[0])
    assert encoded == [len(pairs)]
    method.after_step(1)  # no update is due
    method.encode(data[0])
    assert encoded == [len(pairs)]
    method.after_step(2)
    method.encode(data[0])
    assert encoded == [len(pairs)] * 2


def test_carot_logs_the_momentum_of_a_teacher_that_moves(tiny_clip: Clip, class_prompts: Tensor):
    # .05 to .9 over 60 % of 5 steps = 3 steps: .05 + .85 * step / 3, then .9
    moving = build(entry("carot", **ema(0.05, 0.9, 0.6, 2)), tiny_clip, class_prompts)
    assert moving.after_step(1)["teacher/momentum"] == pytest.approx(0.05 + 0.85 / 3)
    assert moving.after_step(4)["teacher/momentum"] == 0.9
    assert set(moving.after_step(4)) == {"model/logit_scale", "teacher/momentum"}
    frozen = build(entry("carot", **ema(0.05, 0.9, 0.6, None)), tiny_clip, class_prompts)
    assert set(frozen.after_step(4)) == {"model/logit_scale"}


def test_numbers_of_the_teacher_may_be_fractions_of_the_run(tiny_clip: Clip, class_prompts: Tensor):
    # 5 steps: 60 % are 3, 40 % are 2
    numbers = ema(0.05, 0.9, 0.6, 0.4)
    teacher = build(entry("carot", **numbers), tiny_clip, class_prompts).teacher
    assert (teacher.warmup_steps, teacher.update_every) == (3.0, 2)
