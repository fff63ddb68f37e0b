"""Calibration measured and chosen, from saved logits alone."""
