"""Peer libraries, imported when a test needs them: some warn when they are compiled."""

import importlib
import warnings
from types import ModuleType

import jaxtyping
import pytest


def import_quietly(name: str) -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


@pytest.fixture(scope="session")
def netcal_metrics() -> ModuleType:
    return import_quietly("netcal.metrics")


@pytest.fixture(scope="session")
def netcal_binning() -> ModuleType:
    return import_quietly("netcal.binning")


@pytest.fixture(scope="session")
def uncertainty_calibration() -> ModuleType:
    return import_quietly("calibration")


@pytest.fixture
def _no_type_checker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Call the functions as users do, without a check of their signatures."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
