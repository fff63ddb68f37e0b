"""The code behind the CaRot compendium.

Its calibration part works alone, on logits [N, K] and labels [N] as arrays, tensors or lists:

    >>> import numpy as np
    >>> from carot_lib.calibration.bin_stats import BinStats
    >>> from carot_lib.calibration.metrics import ece
    >>> from carot_lib.report.reliability import reliability_grid
    >>> from carot_lib.calibration.temperature import select_temperature

    A model that is right three times of four and nine parts of ten certain:

    >>> logits = np.log([[0.9, 0.1]] * 400)
    >>> labels = np.array([0, 0, 0, 1] * 100)
    >>> round(ece(logits, labels), 6)  # .9 - .75
    0.15

    The temperature at which it is as certain as it is right, and whether chance explains the rest:

    >>> choice = select_temperature(logits, labels)
    >>> choice.temperature
    2.0
    >>> scaled = BinStats.from_logits(logits, labels, temperature=choice.temperature)
    >>> round(scaled.ece(), 6), round(scaled.noise_floor(), 6), scaled.p_value() > 0.05
    (0.0, 0.017275, True)

    The same of tensors, and a picture of both:

    >>> import torch
    >>> before = BinStats.from_logits(torch.tensor(logits), torch.tensor(labels))
    >>> figure = reliability_grid({"test set": {"before": before, "after": scaled}})
    >>> len(figure.axes)
    4
"""
