"""The losses: by hand, by their properties and against PyTorch's own functions."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from carot_lib.methods.losses import contrastive_loss, self_distillation_loss

BY_HAND = torch.tensor([[2.0, 0.0], [1.0, 3.0]])
LOG_3 = math.log(3)
# KL of (3/4, 1/4) to (1/2, 1/2): .75 log 1.5 + .25 log .5; the other way round it is .1438
KL = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)


def draw(rows: int, seed: int, spread: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(rows, rows, generator=generator, dtype=torch.float64)


sizes = st.integers(1, 8)
seeds = st.integers(0, 10_000)


def test_contrastive_loss_by_hand():
    # rows (2, 0) and (1, 3): log(1 + e^-2) = .126928 each
    # columns (2, 1) and (0, 3): log(1 + e^-1) = .313262 and log(1 + e^-3) = .048587
    expected = ((0.126928 + 0.126928) / 2 + (0.313262 + 0.048587) / 2) / 2
    assert contrastive_loss(BY_HAND).item() == pytest.approx(expected, abs=2e-6)


def test_label_smoothing_by_hand():
    # A fifth of the mass is uniform over the two candidates, so half of it moves to the wrong one:
    # .1 times the distances 2, 2 (rows) and 1, 3 (columns), on average .2, is added.
    smoothed, plain = contrastive_loss(BY_HAND, 0.2).item(), contrastive_loss(BY_HAND).item()
    assert smoothed - plain == pytest.approx(0.2, abs=1e-6)


@pytest.mark.parametrize("batch", [1, 2, 7, 512])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_contrastive_loss_of_equal_similarities_is_log_batch(batch, smoothing):
    loss = contrastive_loss(torch.full((batch, batch), 3.5), smoothing)
    assert loss.item() == pytest.approx(math.log(batch), abs=1e-5)


def test_contrastive_loss_does_not_overflow():
    logits = torch.tensor([[0.0, 200.0], [200.0, 0.0]], requires_grad=True)
    loss = contrastive_loss(logits)
    loss.backward()
    assert loss.item() == pytest.approx(200)
    torch.testing.assert_close(logits.grad, torch.tensor([[-0.5, 0.5], [0.5, -0.5]]))


def test_distillation_is_the_divergence_of_the_student_from_the_teacher():
    teacher = torch.tensor([[LOG_3, 0.0], [0.0, LOG_3]])
    assert self_distillation_loss(torch.zeros(2, 2), teacher).item() == pytest.approx(KL, abs=1e-6)
    assert pytest.approx(0.1438, abs=5e-5) != KL
    other = self_distillation_loss(teacher, torch.zeros(2, 2))
    assert other.item() == pytest.approx(0.1438, abs=5e-5)


@given(sizes, seeds, st.floats(-50, 50))
def test_distillation_is_zero_for_equal_distributions(rows, seed, shift):
    logits = draw(rows, seed)
    assert self_distillation_loss(logits, logits).item() == 0
    assert self_distillation_loss(logits + shift, logits).item() == pytest.approx(0, abs=1e-12)


def test_no_gradient_reaches_the_teacher():
    student, teacher = draw(3, 0).requires_grad_(), draw(3, 1).requires_grad_()
    self_distillation_loss(student, teacher).backward()
    assert student.grad.abs().max() > 0
    assert teacher.grad is None


@given(sizes, seeds)
def test_distillation_as_the_public_code_has_it_is_the_sum(rows, seed):
    student, teacher = draw(rows, seed).requires_grad_(), draw(rows, seed + 1)
    mean = self_distillation_loss(student, teacher, "paper")
    total = self_distillation_loss(student, teacher, "code")
    assert total.item() == pytest.approx(2 * mean.item(), abs=1e-12)
    # the code's own form, a cross-entropy against the teacher, has the same gradient
    soft = sum(
        -(t.softmax(dim=1) * s.softmax(dim=1).log()).sum(dim=1).mean()
        for s, t in ((student, teacher), (student.T, teacher.T))
    )
    (ours,) = torch.autograd.grad(total, student)
    (theirs,) = torch.autograd.grad(soft, student)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("swapped", [False, True])
def test_distillation_does_not_overflow(swapped):
    near = torch.tensor([[200.0, 0.0], [0.0, 200.0]])
    student, teacher = (near.flip(0), near) if swapped else (near.clone(), near.flip(0))
    student.requires_grad_()
    loss = self_distillation_loss(student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(200)
    assert student.grad.isfinite().all()
    assert self_distillation_loss(near, near).item() == 0
