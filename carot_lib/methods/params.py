"""The fine-tuning methods: one file each, one name each in the union below."""

from typing import Annotated

from pydantic import Field, RootModel

from carot_lib.methods.carot import CarotParams
from carot_lib.methods.fine_tune import FineTuneParams
from carot_lib.methods.flyp import FlypParams

MethodParams = Annotated[FineTuneParams | FlypParams | CarotParams, Field(discriminator="kind")]


class Run(RootModel[MethodParams]):
    """One entry under `runs:` of params.yaml, read by itself."""
