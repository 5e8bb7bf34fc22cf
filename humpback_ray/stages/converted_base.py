"""A base model out of a GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from humpback_ray.config.settings import SamplingSettings
from humpback_ray.execution.stage import NOT_HASHED, Context, Part, Result, Source, Stage
from humpback_ray.models.wrapping import write_wrapping
from humpback_ray.stages.finetune import wrapping_of


@dataclass(frozen=True, kw_only=True)
class ConvertedBase(Stage):
    """An ordinary model folder in bf16 with the model and the tokenizer of a GGUF file.

    The file's own chat template stays behind. `refresh` writes the run's, as for a trained model.
    """

    kind: ClassVar[str] = "base-converted"
    version: ClassVar[int] = 1
    part: ClassVar[Part] = "finetune"

    file: Source
    tags: tuple[str, ...] = field(default=(), metadata=NOT_HASHED)
    sampling: SamplingSettings | None = field(default=None, metadata=NOT_HASHED)

    def run(self, context: Context) -> Result:
        """Write the model folder, checked against the model in the file."""
        from humpback_ray.training import gguf_model

        context.progress.say("converting the GGUF file")
        converted = gguf_model.convert(context.of(self.file), context.folder)
        figures = {
            "num_parameters": converted.num_parameters,
            "types": list(converted.types),
            "largest_logit_difference": converted.largest_logit_difference,
        }
        return Result(converted.num_tensors, {"converted": converted.num_tensors}, figures)

    def refresh(self, context: Context, figures: Mapping[str, Any]) -> None:
        """Rewrite the chat template and the sampling defaults if they differ from the fields."""
        write_wrapping(context.folder, wrapping_of(self.tags, self.sampling))
