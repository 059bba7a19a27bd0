"""What every part of the configuration is made of."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused, so are NaN and infinity; values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
