"""Datasets as a corpus: the same rows from any number of tasks, and one line for what is wrong."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from humpback_ray.config.settings import CorpusSettings
from humpback_ray.corpus import hub_datasets
from humpback_ray.corpus.cut import segments_of
from humpback_ray.corpus.documents import Document, Unreadable
from humpback_ray.corpus.files import list_files
from humpback_ray.corpus.readers import check_dataset, read_documents
from humpback_ray.errors import UserError
from humpback_ray.execution.sources import corpus_source
from tests.support.hub_datasets import FORMS, rows, write_cache, write_dataset

SETTING = "settings.corpus.path"
COMMIT = "a" * 40


def settings(location: str, **changes) -> CorpusSettings:
    return CorpusSettings(path=location, min_characters=1, max_characters=100, **changes)


def documents(location: str, **changes) -> list[Document]:
    files = list_files(location)
    return [d for file in files for d in read_documents(file, settings(location, **changes))]


@pytest.mark.parametrize("form", FORMS)
def test_every_row_of_a_folder_is_one_document(tmp_path, form):
    location = write_dataset(tmp_path / "set", form, rows(20))
    found = documents(location, url_column="url", text_format="markdown")
    assert [d.content for d in found] == [f"Text {n}." for n in range(20)]
    assert [d.url for d in found] == [f"http://a/{n}" for n in range(20)]
    assert {d.format for d in found} == {"markdown"}
    assert len({d.document_id for d in found}) == 20


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("column", ["id", "warc_headers"])
def test_id_of_a_row_is_kept(tmp_path, form, column):
    ids = [f"<urn:uuid:{n}>" for n in range(4)]
    content = [
        {**row, column: {"warc-record-id": name} if column == "warc_headers" else name}
        for row, name in zip(rows(4), ids, strict=True)
    ]
    location = write_dataset(tmp_path / "set", form, content)
    assert [d.source_id for d in documents(location)] == ids


def test_few_parquet_files_are_read_by_row_groups_and_json_by_files(tmp_path):
    parquet = write_dataset(tmp_path / "p", "parquet", rows(24))
    assert [len(list(hub_datasets.read_shard(file, ["text"], SETTING)))
            for file in list_files(parquet)] == [4] * 6  # fmt: skip
    assert len(list_files(write_dataset(tmp_path / "j", "json", rows(24)))) == 3


def test_saved_folder_is_split_by_its_size(tmp_path, monkeypatch):
    location = write_dataset(tmp_path / "set", "saved", rows(20), num_files=1)
    monkeypatch.setattr(hub_datasets, "SHARD_BYTES", 200)
    files = list_files(location)
    assert 2 < len(files) <= 20
    assert [d.content for d in documents(location)] == [f"Text {n}." for n in range(20)]


@pytest.mark.parametrize("form", FORMS)
def test_shards_give_the_same_rows_in_any_order_and_opened_again(tmp_path, form):
    location = write_dataset(tmp_path / "set", form, rows(20))
    files = list_files(location)
    in_order = [s for file in files for s in segments_of(file, settings(location))]
    backwards = [s for file in files[::-1] for s in segments_of(file, settings(location))]
    assert sorted(in_order, key=lambda s: s.document_id) == sorted(
        backwards, key=lambda s: s.document_id
    )
    hub_datasets.open_dataset.cache_clear()  # as in the process of another task
    again = [s for file in files for s in segments_of(file, settings(location))]
    assert again == in_order


def test_copy_elsewhere_is_the_same_source_and_has_the_same_ids(tmp_path):
    one, two = (
        write_dataset(tmp_path / name / "set", "parquet", rows(20)) for name in ("one", "two")
    )
    assert documents(one) == documents(two)
    assert corpus_source(one).identity == corpus_source(two).identity
    other = write_dataset(tmp_path / "other", "parquet", rows(21))
    identities = {
        corpus_source(place).identity
        for place in (one, other, one.replace("train", "test"), f"{one}&column=url")
    }
    assert len(identities) == 4


def test_dataset_of_the_hub_is_a_source_by_name_revision_and_part_without_being_reached():
    identities = [
        corpus_source(place).identity
        for place in (
            "dataset://no/such", "dataset://no/such?revision=v1", "dataset://no/such?config=en",
            "dataset://no/such?split=test",
        )
    ]  # fmt: skip
    assert len(set(identities)) == 4
    assert all(identities)
    assert corpus_source("dataset://no/such?split=train").identity == identities[0]


def test_column_of_the_address_precedes_the_setting(tmp_path):
    location = write_dataset(tmp_path / "set", "parquet", rows(3)) + "&column=url"
    assert [d.content for d in documents(location)] == [f"http://a/{n}" for n in range(3)]


def test_row_without_a_text_is_unreadable_and_the_others_are_read(tmp_path):
    content = [{"text": "One."}, {"text": None}, {"text": "Three."}]
    location = write_dataset(tmp_path / "set", "parquet", content, num_files=1)
    one, none, three = documents(location)
    assert (one.content, three.content) == ("One.", "Three.")
    assert isinstance(none, Unreadable)
    assert none.reason == (
        "row 2 has no string in text or Clean-Text or content or raw_content; it has text"
    )


def test_damaged_shard_is_one_row_and_the_others_are_read(tmp_path):
    location = write_dataset(tmp_path / "set", "parquet", rows(24))
    damaged = next((tmp_path / "set").glob("*00001-of*"))
    content = damaged.read_bytes()
    damaged.write_bytes(content[:20] + b"\xff" * 60 + content[80:])
    found = documents(location)
    assert [type(d) for d in found].count(Unreadable) == 1
    assert "the rest of the file is damaged" in next(
        d.reason for d in found if isinstance(d, Unreadable)
    )
    assert [d.content for d in found if isinstance(d, Document)][:8] == [
        f"Text {n}." for n in range(8)
    ]


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("dataset://no/such", r"Couldn't reach 'no/such' on the Hub.*HF_HUB_OFFLINE=1"),
        ("dataset://{}/nowhere", "give a folder of Parquet"),
        ("dataset://{}/p?split=test", r"Bad split: test\. Available splits: \['train'\]"),
        ("dataset://{}/p?config=de", r"'de' not found\. Available: \['default'\]"),
        ("dataset://{}/p?column=body", r"no column 'body'; it has text, url, n: name one"),
        ("dataset://{}/s?split=test", "has no splits: leave split= out"),
        ("dataset://{}/s?config=de", "has no configs: leave config= out"),
        ("dataset://{}/d?split=test", r"Available splits: \['train', 'other'\]"),
        ("dataset://{}/d", ""),
        ("dataset://{}/script", "scripts are no longer supported.*refs/convert/parquet"),
    ],
)
def test_dataset_that_cannot_be_read_is_refused_in_one_line(tmp_path, location, reason):
    write_dataset(tmp_path / "p", "parquet", rows(3))
    write_dataset(tmp_path / "s", "saved", rows(3))
    write_dataset(tmp_path / "d", "saved_splits", rows(3))
    (tmp_path / "script").mkdir()
    (tmp_path / "script" / "script.py").write_text("import datasets\n")
    location = location.format(tmp_path)
    if not reason:
        check_dataset(location, settings(location), SETTING)
        return
    with pytest.raises(UserError, match=reason) as error:
        check_dataset(location, settings(location), SETTING)
    assert "\n" not in str(error.value)
    assert location in str(error.value)
    assert SETTING in str(error.value)


def test_name_of_the_hub_is_not_read_from_a_folder_of_that_name(tmp_path, monkeypatch):
    write_dataset(tmp_path / "org" / "folder", "parquet", rows(3))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="write its absolute path behind dataset://"):
        list_files("dataset://org/folder")


def test_cache_of_the_hub_is_read_offline_and_pins_its_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", Path(tmp_path))
    write_cache(tmp_path, "org/cached", COMMIT, rows(5))
    location = "dataset://org/cached?config=en"
    [file] = list_files(location)
    assert file.path == f"{location}&revision={COMMIT}#0/1"
    assert file.name == "org/cached@main/en/train/00000"
    assert [d.content for d in documents(location)] == [f"Text {n}." for n in range(5)]
    assert hub_datasets.dataset_read(location, SETTING) == {"dataset": location, "commit": COMMIT}
    with pytest.raises(UserError, match=f"the cache has the commit {COMMIT} of org/cached"):
        list_files(f"{location}&revision=v1")
    with pytest.raises(UserError, match=r"config 'de'.*Available configs in the cache: \['en'\]"):
        list_files("dataset://org/cached?config=de")


def test_node_with_another_copy_is_refused(tmp_path):
    location = write_dataset(tmp_path / "set", "json", rows(6))
    file = list_files(location)[0]
    other = write_dataset(tmp_path / "other", "json", rows(6), num_files=2)
    moved = type(file)(file.path.replace(location, other), file.name, file.size)
    with pytest.raises(UserError, match="has 2 shards on this machine and 3 where the run lists"):
        list(read_documents(moved, settings(location)))
