"""The base class of stages whose rows come from engines."""

from __future__ import annotations

from dataclasses import dataclass, field

from humpback_ray.execution.stage import NOT_HASHED, Context, Source, Stage
from humpback_ray.serving.requests import ServedModel


@dataclass(frozen=True, kw_only=True)
class GeneratingStage(Stage):
    """A stage whose rows come from engines: the engines' settings and the model to serve."""

    context_length: int  # tokens of prompt and answer together
    dtype: str  # of the engines' arithmetic, or `auto`
    random_seed: int
    trust_remote_code: bool = field(default=False, metadata=NOT_HASHED)

    @property
    def uses_engines(self) -> bool:
        """True; an endpoint in their place makes it false."""
        return True

    def served(
        self,
        context: Context,
        model: Stage | Source,
        quantization: str | None = None,
        head_dtype: str | None = None,
    ) -> ServedModel:
        """A model as the engines load it."""
        return ServedModel(
            context.of(model),
            self.context_length,
            self.dtype,
            self.trust_remote_code,
            quantization,
            model.revision if isinstance(model, Source) else None,
            head_dtype,
        )
