"""What is measured in the training benchmark: our loop, the plain one, and a matrix product."""

import copy
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cases import Case
from benchmarks.plain import PlainTraining
from benchmarks.timing import forget_peak, peak_memory
from carot_lib.methods.base import Setup
from carot_lib.training.loop import fit
from carot_lib.training.optimizer import build_optimizer


class Ours:
    """The steps of a case by the library's own methods and its own loop."""

    def __init__(self, case: Case, name: str):
        self.fabric = case.hardware.launch()
        self.run, self.data = case.runs[name], case.batches[name]
        self.warmup_steps = case.warmup_steps
        clip = copy.deepcopy(case.clip).to(self.fabric.device)
        prompts = case.prompts.to(self.fabric.device)
        self.method = self.run.build(Setup(clip, prompts, len(self.data)))
        self.optimizer = build_optimizer(
            self.run.parameter_groups(self.method.model), case.training.weight_decay
        )

    def __call__(self) -> float:
        """Train; the first loss term of the last step."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.run.learning_rate  # the loop before left the rate of its last step
        records: list[dict[str, float]] = []
        fit(
            self.method,
            self.data,
            len(self.data),
            self.optimizer,
            self.warmup_steps,
            self.run.clip_gradient_norm,
            self.fabric,
            records.append,
        )
        return list(records[-1].values())[2]  # after step and learning rate


class Plain:
    """The same steps in the plain way."""

    def __init__(self, case: Case, name: str):
        device = case.hardware.launch().device
        self.data = case.batches[name]
        self.training = PlainTraining(
            case.runs[name],
            copy.deepcopy(case.clip).to(device),
            case.prompts.to(device),
            len(self.data),
            case.training.weight_decay,
            case.warmup_steps,
            bf16=case.hardware.precision == "bf16-mixed",
        )

    def __call__(self) -> float:
        """Train; the first loss term of the last step."""
        return self.training.train(self.data)


WAYS = {"ours": Ours, "plain": Plain}


class Counted:
    """A candidate whose first call, which is not timed, counts operations and keeps the loss.

    It does without the fused attention of torch, whose operations the counter does not see.
    """

    def __init__(self, train: Callable[[], float]):
        self.train, self.flops, self.loss = train, 0, float("nan")

    def __call__(self) -> None:
        """Train."""
        if self.flops:
            self.train()
        else:
            fused = torch.backends.mha.get_fastpath_enabled()
            torch.backends.mha.set_fastpath_enabled(False)
            with FlopCounterMode(display=False) as counter:
                self.loss = self.train()
            torch.backends.mha.set_fastpath_enabled(fused)
            self.flops = counter.get_total_flops()
        wait()


class MatrixProduct:
    """Products of square matrices: what the device gives at best."""

    def __init__(self, device: torch.device, precision: str, side: int, times: int):
        dtype = torch.bfloat16 if precision == "bf16-mixed" else torch.float32
        self.factors = torch.randn(2, side, side, device=device, dtype=dtype)
        self.times, self.flops = times, 2 * times * side**3

    def __call__(self) -> None:
        """Multiply."""
        for _ in range(self.times):
            torch.mm(*self.factors)
        wait()


def wait() -> None:
    """Until the GPU has done all it was given, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_of(make: Callable[[], Case], way: str, name: str) -> int:
    """Bytes that a candidate needs beyond libraries and data, in a process of its own."""
    case = make()
    forget_peak()
    before = peak_memory()
    WAYS[way](case, name)()
    if case.hardware.launch().device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return peak_memory() - before


def parts_of_a_step(case: Case) -> dict[str, float]:
    """Seconds of each part of a CaRot step, by watches on the library's own functions."""
    train = Ours(case, "carot")
    seconds: Counter[str] = Counter()

    def watch(owner: object, function: str, part: str) -> None:
        call = getattr(owner, function)

        def watched(*arguments: Any, **options: Any) -> Any:
            wait()
            start = time.perf_counter()
            result = call(*arguments, **options)
            wait()
            seconds[part] += time.perf_counter() - start
            return result

        setattr(owner, function, watched)

    student, teacher = train.method.model, train.method.teacher
    watch(student, "encode_images", "student, images")
    watch(student, "encode_texts", "student, texts")
    watch(teacher.model, "encode_images", "teacher, images")
    watch(teacher.model, "encode_texts", "teacher, texts")
    watch(train.method, "loss_terms", "loss")
    watch(train.fabric, "backward", "backward")
    watch(train.optimizer, "step", "optimizer")
    watch(teacher, "update", "EMA")
    train()  # what is done once only, as making the optimizer's state
    seconds.clear()
    start = time.perf_counter()
    train()
    wait()
    seconds["the rest"] = time.perf_counter() - start - sum(seconds.values())
    return {part: value / len(train.data) for part, value in seconds.items()}
