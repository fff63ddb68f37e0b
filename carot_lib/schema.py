"""The base of all parameter classes, and the value ranges they share."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]


class StrictParams(BaseModel):
    """Base of all parameter classes: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
