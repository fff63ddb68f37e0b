"""The training losses, as pure functions of similarity logits."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def contrastive_loss(
    logits_per_image: Float[Tensor, "batch batch"], label_smoothing: float = 0.0
) -> Float[Tensor, ""]:
    """Symmetric image-text cross-entropy; pair (i, i) is the positive.

    Mean over the batch and over both directions, as in CLIP's code; Eq. 1 of the paper *sums*
    them, so its loss is 2 * batch times this one.

    In nats; log(batch) when all similarities are equal.

    Args:
        logits_per_image: scaled similarities, [i, j] = scale * <image_i, text_j>.
        label_smoothing: mass in [0, 1) moved from the positive to the uniform distribution over
            the batch's candidates, the positive included.

    Source: Radford et al. 2021, Fig. 3; CaRot, Eq. 1 and Section 2.3 (label smoothing).
    """
    targets = torch.arange(len(logits_per_image), device=logits_per_image.device)
    image_to_text = F.cross_entropy(logits_per_image, targets, label_smoothing=label_smoothing)
    text_to_image = F.cross_entropy(logits_per_image.T, targets, label_smoothing=label_smoothing)
    return (image_to_text + text_to_image) / 2


def self_distillation_loss(
    student_logits_per_image: Float[Tensor, "batch batch"],
    teacher_logits_per_image: Float[Tensor, "batch batch"],
    reduction: Literal["paper", "code"] = "paper",
) -> Float[Tensor, ""]:
    """KL(teacher || student) over the batch, both directions, in nats.

    No gradient flows into the teacher.

    Args:
        student_logits_per_image: scaled similarities, [i, j] = scale * <image_i, text_j>.
        teacher_logits_per_image: the same of the teacher, with the teacher's own scale.
        reduction: `paper` is the mean over the two directions, normalised as `contrastive_loss`
            is, so that the ratio of their weights is the paper's lambda. `code` is their sum, which
            the public code adds to a halved contrastive loss. (There it is a cross-entropy, larger
            by the teacher's entropy, with the same gradient.)

    Source: CaRot, Eq. 2; `carot_loss.py` of the public code.
    """
    teacher = teacher_logits_per_image.detach()
    both = _divergence(student_logits_per_image, teacher)
    both = both + _divergence(student_logits_per_image.T, teacher.T)
    return both / 2 if reduction == "paper" else both


def _divergence(
    student: Float[Tensor, "rows columns"], teacher: Float[Tensor, "rows columns"]
) -> Float[Tensor, ""]:
    """KL between the rows' softmax distributions, mean over the rows."""
    # log_softmax on both sides: a product of softmax and its logarithm is 0 * -inf = NaN as soon
    # as two similarities are 104 apart.
    return F.kl_div(
        student.log_softmax(dim=1),
        teacher.log_softmax(dim=1),
        reduction="batchmean",
        log_target=True,
    )
