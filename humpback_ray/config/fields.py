"""What settings and placement are made of."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
)

PositiveInt = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]


class Frozen(BaseModel):
    """A section of a recipe. Immutable; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    # Fields that say where something lies and not what it is.
    locations: ClassVar[frozenset[str]] = frozenset()

    def identity(self) -> dict[str, Any]:
        """The values on which a result depends, as JSON: all but the locations."""
        return self.model_dump(mode="json", exclude=set(self.locations))
