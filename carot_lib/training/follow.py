"""Old place of `MetricLogger`, until the stages import it from monitor.py."""

from carot_lib.training.monitor import MetricLogger  # noqa: F401
