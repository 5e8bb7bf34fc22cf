"""Several places of one corpus, and paths with characters of a pattern."""

from __future__ import annotations

import os
from itertools import permutations
from pathlib import Path

import fsspec
import pytest

from humpback_ray.config.settings import CorpusSettings
from humpback_ray.corpus.cut import rows_of
from humpback_ray.corpus.files import list_corpus, list_files
from humpback_ray.execution.sources import corpus_source
from tests.support.hub_datasets import write_dataset

TREE = {
    "wiki/part-0.md": "# Tides\n\nTwice a day.",
    "wiki/notes": "",
    "books/part-0.md": "# Whales\n\nThey sing.",
    "books/vol [1]/a b.md": "# Krill\n\nIt is eaten.",
    "books/notes": "",
    "more/c.md": "# Kelp\n\nIt grows.",
}


@pytest.fixture
def corpus(tmp_path) -> Path:
    for name, content in TREE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path


def places(corpus: Path, *names: str) -> list[str]:
    return [f"{corpus}/{name}" for name in names]


def names(paths) -> list[str]:
    return [file.name for file in list_files(paths)]


def test_rows_and_identity_do_not_depend_on_the_order_of_places(corpus):
    settings = CorpusSettings(path="x", min_characters=1)
    found = []
    for paths in permutations(places(corpus, "wiki", "books/*", "more/c.md")):
        files = list_files(paths)
        rows = [row for file in files for row in rows_of(file, settings)]
        found.append((rows, corpus_source(paths).identity))
    assert all(each == found[0] for each in found)
    ids = {row.document_id for row in found[0][0]}
    assert len(ids) == 4


def test_files_of_one_name_are_told_apart_by_the_folders_above(corpus):
    assert names(places(corpus, "wiki", "more")) == ["c.md", "part-0.md"]
    both = places(corpus, "wiki", "books")
    assert names(both) == ["books/part-0.md", "books/vol [1]/a b.md", "wiki/part-0.md"]
    left_out = [entry.url for entry in list_corpus(both).not_read]
    assert left_out == ["books/notes", "wiki/notes"]
    before = corpus_source(tuple(both)).identity
    moved = corpus.rename(corpus.with_name("moved"))
    assert corpus_source(tuple(places(moved, "books", "wiki"))).identity == before
    (moved / "wiki").rename(moved / "encyclopedia")
    assert corpus_source(tuple(places(moved, "books", "encyclopedia"))).identity != before


def test_one_path_and_a_list_of_its_files_are_one_corpus(corpus):
    (corpus / "more/d.md").write_text("# Eels")
    one = corpus_source(f"{corpus}/more/*.md").identity
    assert corpus_source(tuple(places(corpus, "more/d.md", "more/c.md"))).identity == one
    assert corpus_source(f"{corpus}/more").identity == one


def test_file_that_several_places_reach_is_read_once(corpus):
    os.symlink(corpus / "wiki", corpus / "a link")
    os.symlink(corpus / "more/c.md", corpus / "more/again.md")
    paths = places(corpus, "a link", "wiki", "wiki/*.md", "wiki/part-0.md")
    assert names(paths) == names(f"{corpus}/wiki") == ["part-0.md"]
    assert list_files(paths)[0].path == f"{corpus}/wiki/part-0.md"
    assert names(places(corpus, "more/again.md", "more/c.md")) == ["c.md"]


def test_file_that_one_place_leaves_out_and_another_reads_is_read(corpus):
    (corpus / "more/.hidden").mkdir()
    (corpus / "more/.hidden/e.md").write_text("# Eels")
    listing = list_corpus(places(corpus, "more", "more/.hidden/e.md"))
    assert [file.name for file in listing.files] == ["c.md", "e.md"]


@pytest.mark.parametrize("name", ["none", "none/*.md", "wiki/notes"])
def test_place_without_files_is_named_in_one_line(corpus, name):
    paths = tuple(places(corpus, "wiki", name))
    source = corpus_source(paths)
    assert source.identity is None
    assert f"{corpus}/{name}" in source.problem
    assert "\n" not in source.problem
    with pytest.raises(ValueError, match=r"settings\.corpus\.path"):
        list_files(paths)


def test_local_and_remote_places_are_one_corpus(corpus):
    fsspec.filesystem("memory").put(f"{corpus}/books/", "/several/books/", recursive=True)
    mixed = [f"{corpus}/wiki", "memory://several/books"]
    assert names(mixed) == names(places(corpus, "wiki", "books"))
    local = corpus_source(tuple(places(corpus, "wiki", "books"))).identity
    assert corpus_source(tuple(mixed)).identity == local


def test_dataset_and_folder_are_one_corpus_in_any_order(corpus):
    rows = [{"text": f"Text {number}."} for number in range(6)]
    dataset = write_dataset(corpus / "set", "parquet", rows)
    paths = (dataset, f"{corpus}/wiki")
    found = names(paths)
    assert "part-0.md" in found
    assert len(found) == len(set(found)) > 1
    source = corpus_source(paths)
    assert source.identity == corpus_source(paths[::-1]).identity
    assert source.identity.startswith("several:")
    hub = corpus_source(("dataset://no/such?split=train", f"{corpus}/wiki"))
    assert hub.identity, "the hub is not asked for an identity"


def test_source_of_one_path_has_the_identity_that_it_had(corpus):
    one = corpus_source(f"{corpus}/more")
    assert one.identity == "a9cbb29bf07793e26644cf01113f3eed86e104d34fd6f390a346feda426b327b"
    assert one.places == (f"{corpus}/more",)


# --- characters of patterns in names ------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("books/vol [1]/*.md", ["a b.md"]),
        ("books/vol [1]/a b.md", ["a b.md"]),
        ("books/vol [1]", ["a b.md"]),
        ("books/v?l [[]1]/a*", ["vol [1]/a b.md"]),
        ("odd [x/*]y/**/*.md", ["deep/e.md"]),
        ("link [1]/*.md", ["part-0.md"]),
        ("[wm]*/*.md", ["more/c.md", "wiki/part-0.md"]),
    ],
)
def test_folder_with_brackets_is_itself_and_not_a_pattern(corpus, pattern, expected):
    for name in ("odd [x/*]y/deep/e.md", "v/a b.md"):
        (corpus / name).parent.mkdir(parents=True)
        (corpus / name).write_text("# X")
    os.symlink(corpus / "wiki", corpus / "link [1]")
    assert names(f"{corpus}/{pattern}") == expected


def test_file_with_the_name_of_a_pattern_wins_over_its_matches(corpus):
    (corpus / "wiki/part-[0].md").write_text("# Literal")
    assert names(f"{corpus}/wiki/part-[0].md") == ["part-[0].md"]
    assert names(f"{corpus}/wiki/part-[[]0].md") == ["part-[0].md"]
    (corpus / "wiki/part-[0].md").unlink()
    assert names(f"{corpus}/wiki/part-[0].md") == ["part-0.md"]
