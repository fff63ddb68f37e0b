"""The loss of a global batch that no device holds at once.

A contrastive loss compares every image with every caption, so it is no mean over smaller batches.
But the encoding can be split: every device encodes its share, in micro-batches if memory is short,
and computes the loss of the gathered features, which are small compared with the activations. So
the features of an image must not depend on other images: see `set_training_mode`.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from carot_lib.distributed import rank, world_size

MicroBatch = TypeVar("MicroBatch")
Encoded = dict[str, Tensor]  # tensors with one row per image, by name


def encode_global_batch(
    encode: Callable[[MicroBatch], Encoded],
    micro_batches: Sequence[MicroBatch],
    global_size: int | None,
) -> Encoded:
    """The rows of the global batch on every device, in full precision.

    Args:
        encode: gives tensors with one row per image.
        micro_batches: this device's share of the batch; the shares differ by at most one image.
        global_size: images of the batch over all devices; None if there is one device.
    """
    encoded = encode_micro_batches(encode, micro_batches)
    for name, rows in encoded.items():
        if rows.is_floating_point():
            rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        encoded[name] = rows if global_size is None else gather_rows(rows, global_size)
    return encoded


def encode_micro_batches(
    encode: Callable[[MicroBatch], Encoded], micro_batches: Sequence[MicroBatch]
) -> Encoded:
    """Encode micro-batches with the activations of only one of them in memory at a time.

    Each is encoded again, with the same random numbers, when its gradient is computed, which takes
    about a third more time. The second pass ends at the last tensor that needs a gradient: what
    `encode` computes last and without gradient (the features of a teacher) is computed once.

    Source: Gao et al. 2021 (GradCache); `--accum-freq` of open_clip's training.
    """
    if len(micro_batches) == 1:
        return encode(micro_batches[0])

    def encode_one(micro_batch: MicroBatch, *_: object) -> Encoded:
        return encode(micro_batch)

    # The tensors are arguments too: by them torch finds the GPU whose generator it has to keep.
    encoded = [
        checkpoint(encode_one, batch, *vars(batch).values(), use_reentrant=False)
        for batch in micro_batches
    ]
    return {name: torch.cat([rows[name] for rows in encoded]) for name in encoded[0]}


def gather_rows(
    rows: Shaped[Tensor, "local *row"], global_size: int
) -> Shaped[Tensor, "global *row"]:
    """The rows of all devices, in the order of the batch of `global_size` images."""
    if world_size() == 1:
        return rows
    shares = torch.arange(global_size).tensor_split(world_size())
    return _Gather.apply(rows, [len(share) for share in shares])


class _Gather(torch.autograd.Function):
    """Rows of all devices; each device gets back the gradient of its own rows.

    Every device computes the same loss of all rows and so holds the whole gradient of its own:
    nothing is communicated in the backward pass. The gradient is multiplied by the number of
    devices, by which `average_gradients` divides.
    """

    @staticmethod
    def forward(
        context: Any, rows: Shaped[Tensor, "local *row"], sizes: list[int]
    ) -> Shaped[Tensor, "global *row"]:
        """The rows of all devices in their order."""
        context.sizes = sizes
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])  # shares differ by one row
        padded[: len(rows)] = rows
        gathered = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(gathered, padded)
        return torch.cat([part[:size] for part, size in zip(gathered, sizes, strict=True)])

    @staticmethod
    def backward(
        context: Any, gradient: Shaped[Tensor, "global *row"]
    ) -> tuple[Shaped[Tensor, "local *row"], None]:
        """The gradient of this device's rows."""
        return len(context.sizes) * gradient.split(context.sizes)[rank()], None


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over all devices.

    The gradient through gathered rows is a sum over devices, each summand scaled by their number;
    all other gradients (of a head or a logit scale used in the loss) are equal on all devices. The
    mean is right for both.
    """
    if world_size() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    flat /= world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view(gradient.shape))


def set_training_mode(model: nn.Module) -> None:
    """Training mode, in which BatchNorm still takes its running statistics, which stay fixed.

    So the features of an image do not depend on the other images of its micro-batch, and a student
    and a teacher with the same weights give the same features. Scale and offset are trained.
    """
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
