"""The moving teacher: by hand on a toy, and on a whole CLIP."""

import copy

import pytest
import torch
from tiny import run
from torch import nn

from carot_lib.methods.carot import EmaTeacher


def teacher_of(
    student: nn.Module,
    start: float = 0.25,
    end: float = 0.25,
    warmup: float = 0.0,
    every: int | None = 1,
    at_step_0: bool = False,
) -> EmaTeacher:
    ramp = {"momentum_start": start, "momentum_end": end, "momentum_warmup": 0.2}
    params = run("carot", **ramp, update_every=every, update_at_step_0=at_step_0)
    return EmaTeacher(student, params, round(warmup / 0.2))


class Toy(nn.Module):
    """One weight, one BatchNorm."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([4.0, 8.0]))
        self.norm = nn.BatchNorm1d(2)


def jolt(model: nn.Module, seed: int = 1) -> None:
    """Move every tensor of a model's state, as training would."""
    generator = torch.Generator().manual_seed(seed)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.add_(torch.rand(value.shape, generator=generator))
        else:
            value.add_(3)


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def test_starts_as_an_exact_copy_without_shared_memory(make_clip):
    student = make_clip().train()
    before = snapshot(student)
    teacher = teacher_of(student)
    jolt(student)
    state = teacher.model.state_dict()
    assert state.keys() == before.keys()
    for key, value in before.items():
        assert torch.equal(state[key], value), key
        assert not torch.equal(state[key], student.state_dict()[key]), key


@pytest.mark.parametrize(
    ("step", "momentum"),
    [
        (0, 0.05),
        (500, 0.1349),
        (1000, 0.2198),
        (2000, 0.3896),
        (2503, 0.475),  # half of the ramp
        (5000, 0.8990),
        (5006, 0.9),  # 20 % of 25,030
        (5500, 0.9),
        (25_000, 0.9),
    ],
)
def test_momentum_of_the_papers_run(step, momentum):
    teacher = teacher_of(Toy(), 0.05, 0.9, 0.2 * 25_030, 500)
    assert teacher.momentum(step) == pytest.approx(momentum, abs=5e-5)


def test_the_ramp_ends_exactly_and_can_be_left_out():
    teacher = teacher_of(Toy(), 0.05, 0.9, 0.2 * 25_030)
    assert teacher.momentum(5006) == 0.9
    assert teacher.momentum(5005) < 0.9
    assert teacher_of(Toy(), 0.05, 0.9).momentum(0) == 0.9


def test_the_average_by_hand():
    student = Toy()
    teacher = teacher_of(student, 0.25, 0.25)
    student.weight.data = torch.tensor([0.0, 16.0])
    assert teacher.update(student, 1)
    # .25 * (4, 8) + .75 * (0, 16)
    assert teacher.model.weight.tolist() == [1.0, 14.0]
    student.weight.data = torch.tensor([1.0, 2.0])
    assert teacher.update(student, 2)
    # .25 * (1, 14) + .75 * (1, 2)
    assert teacher.model.weight.tolist() == [1.0, 5.0]


def test_an_update_uses_the_momentum_of_its_step():
    student = Toy()
    teacher = teacher_of(student, 0.0, 0.8, 4.0)
    student.weight.data = torch.tensor([0.0, 0.0])
    teacher.update(student, 1)  # momentum .2: a quarter of the ramp's four steps
    torch.testing.assert_close(teacher.model.weight.data, torch.tensor([0.8, 1.6]))
    teacher.update(student, 7)  # .8
    torch.testing.assert_close(teacher.model.weight.data, torch.tensor([0.64, 1.28]))


@pytest.mark.parametrize("at_step_0", [False, True])
def test_updates_of_the_papers_run(at_step_0):
    # as the paper counts, after 500, 1000, ... steps; as its code counts, at steps 0, 500, ...,
    # which are the 1st, 501st, ... one: 50 updates of 25,030 steps, or 51
    student = Toy()
    teacher = teacher_of(student, 0.05, 0.9, 0.2 * 25_030, 500, at_step_0)
    moved, weight = [], 1.0  # the weight of the pre-trained model in the teacher
    student.weight.data = torch.zeros(2)
    for step in range(1, 25_031):
        if teacher.update(student, step):
            moved.append(step)
            weight *= min(0.05 + 0.85 * (step - at_step_0) / 5006, 0.9)
    first = 1 if at_step_0 else 500
    assert moved == list(range(first, 25_031, 500))
    assert len(moved) == (51 if at_step_0 else 50)
    assert weight == pytest.approx(2.4e-7 if at_step_0 else 4.7e-6, rel=0.02)
    assert teacher.model.weight.tolist() == pytest.approx([4 * weight, 8 * weight], rel=1e-3)


def test_none_never_updates(make_clip):
    student = make_clip()
    teacher = teacher_of(student, every=None)
    before = snapshot(teacher.model)
    jolt(student)
    assert not any(teacher.update(student, step) for step in range(1, 11))
    assert all(torch.equal(before[key], value) for key, value in snapshot(teacher.model).items())


def test_every_tensor_of_clip_is_averaged_and_nothing_turns_nan(make_clip, class_prompts):
    student = make_clip().train()
    teacher = teacher_of(student)
    old = snapshot(teacher.model)
    jolt(student)
    new = snapshot(student)
    teacher.update(student, 1)
    for key, value in teacher.model.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.25 * old[key] + 0.75 * new[key])
        else:
            assert torch.equal(value, new[key])
    assert all(torch.equal(new[key], value) for key, value in student.state_dict().items())
    mask = teacher.model.model.attn_mask
    assert torch.equal(mask, student.model.attn_mask)
    assert mask.isneginf().any()
    assert not mask.isnan().any()
    assert teacher.model.encode_texts(class_prompts[0]).isfinite().all()
    assert teacher.model.encode_images(torch.zeros(2, 3, 32, 32)).isfinite().all()


def test_stays_in_eval_mode_and_without_gradients(make_clip):
    student = make_clip().train()
    teacher = teacher_of(student)
    holder = nn.ModuleList([teacher]).train()
    teacher.update(student, 1)
    assert holder.training
    assert all(module.training for module in student.modules())
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    statistics = copy.deepcopy(teacher.model.state_dict())
    features = teacher.model.encode_images(torch.rand(4, 3, 32, 32))
    assert not features.requires_grad
    assert all(torch.equal(statistics[k], v) for k, v in teacher.model.state_dict().items())
