"""What every part of the configuration is made of."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ilm_ray.base.places import settled

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
# A path, a glob or a URL of data. Relative ones are looked for where the job starts, then in the tree (base/places.py).
Place = Annotated[str, AfterValidator(settled)]


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused, so are NaN and infinity; values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
