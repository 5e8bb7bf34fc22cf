"""The base model: one that exists, one in a GGUF file, or a small LLaMA made from the corpus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from humpback_ray import storage, tables
from humpback_ray.config.placement import Placement
from humpback_ray.config.settings import (
    CorpusSettings,
    GgufBase,
    PretrainedBase,
    ScratchBase,
    Settings,
)
from humpback_ray.corpus.documents import Document
from humpback_ray.corpus.files import list_files
from humpback_ray.corpus.readers import check_dataset, read_documents
from humpback_ray.errors import UserError
from humpback_ray.execution.sources import corpus_source, gguf_source, model_source
from humpback_ray.execution.stage import Context, Part, Result, Source, Stage
from humpback_ray.method import prompts
from humpback_ray.method.filters import segment_id
from humpback_ray.rows import Origin, PlainText, TrainingExample
from humpback_ray.stages.converted_base import ConvertedBase
from humpback_ray.stages.finetune import Finetune

TEXT_SETTING = "settings.base.text"


@dataclass(frozen=True, kw_only=True)
class BaseText(Stage):
    """The plain text that a small base model is pretrained on, where it is not the segments."""

    kind: ClassVar[str] = "base-text"
    version: ClassVar[int] = 4  # all members of a gzip body
    part: ClassVar[Part] = "prepare"

    corpus: Source

    def check(self, placement: Placement) -> None:
        """Refuse a dataset that is not reached or lacks a column of text."""
        for place in self.corpus.places:
            check_dataset(place, CorpusSettings(path=place), TEXT_SETTING)

    def run(self, context: Context) -> Result:
        """Write every document that is plain text.

        Raises:
            UserError: there is none.
        """
        places = self.corpus.several or self.corpus.location
        settings = CorpusSettings(path=places)
        files = list_files(places, setting=TEXT_SETTING)
        documents = [each for file in files for each in read_documents(file, settings)]
        texts = [
            PlainText(segment_id(document.content), document.content)
            for document in documents
            if isinstance(document, Document)
            and document.format == "text"
            and document.content.strip()
        ]
        if not texts:
            raise UserError(
                f"no plain text in {self.corpus.location} ({TEXT_SETTING}): give text files, or "
                "JSON, Parquet or a dataset with a column text"
            )
        storage.delete(context.path("rows"))
        tables.write_rows(context.path("rows"), texts, PlainText)
        return Result(
            len(documents), {"read": len(texts), "no_plain_text": len(documents) - len(texts)}
        )


@dataclass(frozen=True, kw_only=True)
class InitialBase(Stage):
    """A model folder with random weights and a byte-level BPE tokenizer trained on the segments."""

    kind: ClassVar[str] = "base-initial"
    version: ClassVar[int] = 1
    part: ClassVar[Part] = "finetune"

    segments: Stage
    settings: ScratchBase
    context_length: int
    random_seed: int

    def run(self, context: Context) -> Result:
        """Write the model folder."""
        from humpback_ray.training import scratch_model

        context.progress.say("training the tokenizer")
        texts = _texts(context.of(self.segments, "rows"))
        num_parameters = scratch_model.create(
            texts, self.settings, context_length=self.context_length,
            random_seed=self.random_seed, output=context.folder,
        )  # fmt: skip
        return Result(len(texts), {"read": len(texts)}, {"num_parameters": num_parameters})


@dataclass(frozen=True, kw_only=True)
class BaseExamples(Stage):
    """The segments as plain text examples, for the base's pretraining."""

    kind: ClassVar[str] = "base-examples"
    version: ClassVar[int] = 1
    part: ClassVar[Part] = "finetune"

    segments: Stage
    initial: Stage
    sequence_length: int  # tokens of an example, at most

    def run(self, context: Context) -> Result:
        """Write one example for each piece of a text."""
        from humpback_ray.training import scratch_model

        texts = _texts(context.of(self.segments, "rows"))
        pieces = scratch_model.pieces(texts, context.of(self.initial), self.sequence_length)
        examples = [
            TrainingExample(f"{Origin.CORPUS}-{number:08}", "", "", text, Origin.CORPUS)
            for number, text in enumerate(pieces)
        ]
        storage.delete(context.path("rows"))
        tables.write_rows(context.path("rows"), examples, TrainingExample)
        return Result(len(examples), {Origin.CORPUS.value: len(examples)})


def base_model(s: Settings, segments: Stage) -> tuple[Stage | Source, list[Stage]]:
    """The base model of a recipe, and the stages that make it; none for one that exists."""
    if isinstance(s.base, PretrainedBase):
        return model_source(s.base.model, s.base.revision), []
    asking: dict[str, Any] = {
        "tags": prompts.inference_tags(s.prompts),
        "sampling": s.evaluation.sampling,
    }
    if isinstance(s.base, GgufBase):
        file = gguf_source(s.base.file)
        converted = ConvertedBase(path="base/model", file=file, **asking)
        return converted, [converted]
    seeded: dict[str, Any] = {"random_seed": s.random_seed}
    stages: list[Stage] = []
    if s.base.text is not None:
        segments = BaseText(path="base/text", corpus=corpus_source(s.base.text, TEXT_SETTING))
        stages.append(segments)
    initial = InitialBase(
        path="base/initial", segments=segments, settings=s.base,
        context_length=s.context_length, **seeded,
    )  # fmt: skip
    text = BaseExamples(
        path="base/examples", segments=segments, initial=initial,
        sequence_length=s.base.sequence_length,
    )  # fmt: skip
    model = Finetune(
        path="base/model", base=initial, examples=text, settings=s.base.training,
        **asking, **seeded,
    )  # fmt: skip
    return model, [*stages, initial, text, model]


def trusts_remote_code(base: PretrainedBase | ScratchBase | GgufBase) -> bool:
    """True if the base's own code may run, in every model that is made from it."""
    return isinstance(base, PretrainedBase) and base.trust_remote_code


def _texts(segments: str) -> list[str]:
    table = tables.read_table(segments, ["segment_id", "text"]).sort_by("segment_id")
    return table["text"].to_pylist()
