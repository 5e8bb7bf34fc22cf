"""Datasets in folders, in each form that `datasets` reads, and one in a cache of the hub."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import datasets
from datasets.arrow_writer import ArrowWriter

datasets.disable_progress_bars()

FORMS = ("parquet", "json", "saved", "saved_splits")


def rows(number: int, start: int = 0) -> list[dict]:
    return [{"text": f"Text {n}.", "url": f"http://a/{n}", "n": n} for n in range(start, number)]


def write_dataset(folder: Path, form: str, content: Sequence[dict], num_files: int = 3) -> str:
    """Rows as a dataset with a split `train`, where the form has splits; returns its address."""
    num_files = min(num_files, len(content))
    whole = datasets.Dataset.from_list(list(content))
    if form == "saved":
        whole.save_to_disk(str(folder), num_shards=num_files)
        return f"dataset://{folder}"
    if form == "saved_splits":
        datasets.DatasetDict(train=whole, other=whole.select([0])).save_to_disk(str(folder))
        return f"dataset://{folder}?split=train"
    folder.mkdir(parents=True)
    for index in range(num_files):
        part = whole.shard(num_files, index, contiguous=True)
        name = f"{folder}/train-{index:05}-of-{num_files:05}"
        if form == "json":
            part.to_json(f"{name}.jsonl")
        else:
            part.to_parquet(f"{name}.parquet", batch_size=4)  # several row groups
    return f"dataset://{folder}?split=train"


def write_cache(home: Path, name: str, commit: str, content: Sequence[dict]) -> None:
    """Rows as a dataset ORG/NAME with the config `en` in a cache that `datasets` has filled."""
    folder = home / name.replace("/", "___") / "en" / "0.0.0" / commit
    folder.mkdir(parents=True)
    features = datasets.Dataset.from_list(list(content)).features
    writer = ArrowWriter(path=f"{folder}/{name.partition('/')[2]}-train.arrow", features=features)
    for row in content:
        writer.write(row)
    num_rows, num_bytes = writer.finalize()
    split = {"name": "train", "num_bytes": num_bytes, "num_examples": num_rows}
    info = datasets.DatasetInfo(
        features=features, builder_name="parquet", dataset_name=name.partition("/")[2],
        config_name="en", version="0.0.0", splits={"train": split}, dataset_size=num_bytes,
    )  # fmt: skip
    info.write_to_directory(str(folder))
    assert json.loads((folder / "dataset_info.json").read_text())["config_name"] == "en"
