"""The loss of a whole batch that no device holds at once.

A contrastive loss compares every image with every caption, so a batch cannot be cut into batches.
What can be cut is the encoding: every device encodes its share, piece by piece if memory is short;
the features, small beside the activations, are gathered; and every device computes the loss of all
of them. A model with BatchNorm is the exception: its statistics would be those of a piece.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from carot_lib.distributed import split_sizes

Piece = TypeVar("Piece")
Encoded = dict[str, Tensor]  # tensors of one row an image, by name


def encode_whole(
    encode: Callable[[Piece], Encoded], pieces: Sequence[Piece], whole: int | None
) -> Encoded:
    """The rows of the whole batch on every device, in full precision.

    Args:
        encode: one row an image for each tensor, whatever the other images of its piece are.
        pieces: this device's share of the batch.
        whole: images of the batch over all devices; None if there is one device.
    """
    encoded = {
        name: rows.to(torch.promote_types(rows.dtype, torch.float32))
        if rows.is_floating_point()
        else rows
        for name, rows in encode_in_pieces(encode, pieces).items()
    }
    return encoded if whole is None else gather_rows(encoded, whole)


def encode_in_pieces(encode: Callable[[Piece], Encoded], pieces: Sequence[Piece]) -> Encoded:
    """Encode piece by piece and keep the activations of one piece at a time.

    A piece is encoded without keeping its activations, and once more when its gradient is due: the
    memory of a single piece for about a third more time. Random numbers are the same both times.
    The second encoding ends with the last tensor that a gradient needs, so what `encode` does last
    and without gradient (a teacher) is done once.

    Source: Gao et al. 2021 (GradCache); `--accum-freq` of open_clip's training.
    """
    if len(pieces) == 1:
        return encode(pieces[0])

    def encode_one(piece: Piece, *_: object) -> Encoded:
        return encode(piece)

    # the tensors are given by themselves too: torch keeps the generator of the GPU they lie on
    encoded = [
        checkpoint(encode_one, piece, *vars(piece).values(), use_reentrant=False)
        for piece in pieces
    ]
    return {name: torch.cat([part[name] for part in encoded]) for name in encoded[0]}


def gather_rows(encoded: Encoded, whole: int) -> Encoded:
    """The rows of all devices, in the order of the batch; itself where there is one device.

    Args:
        encoded: rows of this device's share.
        whole: images of the batch over all devices.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return encoded
    sizes = split_sizes(whole, dist.get_world_size())
    return {name: _Gather.apply(rows, sizes) for name, rows in encoded.items()}


class _Gather(torch.autograd.Function):
    """Rows of all devices; the gradient of each device's own rows comes back to it.

    Every device computes the same loss of all rows and so has the whole gradient of its own: no
    communication on the way back. `average_gradients` will divide by the number of devices, hence
    the factor.
    """

    @staticmethod
    def forward(
        context: Any, rows: Shaped[Tensor, "share *row"], sizes: list[int]
    ) -> Shaped[Tensor, "whole *row"]:
        """All rows; shares that are an image short are padded on the way."""
        context.sizes = sizes
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(
        context: Any, gradient: Shaped[Tensor, "whole *row"]
    ) -> tuple[Shaped[Tensor, "share *row"], None]:
        """The gradient of this device's own rows, times the number of devices."""
        own = gradient.split(context.sizes)[dist.get_rank()]
        return len(context.sizes) * own, None


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over all devices; nothing to do where there is one.

    What comes through gathered rows is one summand a device, times their number; what does not (a
    head or a logit scale used in the loss) is the same on all: the mean is right for both.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view(gradient.shape))


def has_batch_norm(model: nn.Module) -> bool:
    """Whether the features of an image depend on the other images of its piece of the batch."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
