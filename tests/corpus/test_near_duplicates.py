"""The whole search for duplicates, without Ray: which rows stay, why the others go."""

import random
from collections import Counter

import pytest

from humpback_ray.corpus.near_duplicates import MIN_ALARM_ROWS
from humpback_ray.method.duplicates import jaccard, shingles
from humpback_ray.rows import SegmentOutcome
from tests.support.duplicates import changed, one_by_one, random_words, search, segments_of


def grams(text):
    return frozenset(shingles(text, 5))


def family(seed, size):
    """A text and versions of it with a Jaccard index of about 0.85 with it."""
    words = random_words(seed)
    return [" ".join(words), *(" ".join(changed(words, 2, seed * 99 + n)) for n in range(size))]


def corpus():
    """Rows with clusters of near-duplicates, exact duplicates, and texts that stand alone."""
    texts = [text for seed in range(25) for text in family(seed, seed % 4)]
    return segments_of([*texts, *texts[::5], *texts[::7]])


def kept_by_comparing_all_pairs(rows):
    """Hashes of the texts that are near no kept text with a smaller hash."""
    kept = {}
    for name, text in sorted({row.segment_id: grams(row.text) for row in rows}.items()):
        if all(jaccard(text, other) < 0.8 for other in kept.values()):
            kept[name] = text
    return list(kept)


def test_near_duplicates_go_and_name_the_kept_text_and_its_exact_index(tmp_path):
    rows = corpus()
    found = search(tmp_path, rows)
    kept = {row["segment_id"]: row["text"] for row in found.kept}
    near = [row for row in found.dropped if row["outcome"] == SegmentOutcome.NEAR_DUPLICATE]
    assert len(near) > 20
    for row in near:
        assert row["jaccard"] == jaccard(grams(row["text"]), grams(kept[row["duplicate_of"]]))
        assert row["jaccard"] >= 0.8
        assert row["duplicate_of"] < row["segment_id"]  # the smallest hash stays
    assert list(kept) == kept_by_comparing_all_pairs(rows)


def test_exact_duplicates_go_but_the_row_of_the_first_document(tmp_path):
    rows = corpus()
    found = search(tmp_path, rows, parts=3, sources=4)
    copies = Counter(row.segment_id for row in rows)
    exact = [row for row in found.dropped if row["outcome"] == SegmentOutcome.EXACT_DUPLICATE]
    assert len(exact) == sum(number - 1 for number in copies.values()) > 10
    first = {row.segment_id: row.document_id for row in reversed(rows)}
    for row in exact:
        assert row["duplicate_of"] == row["segment_id"]
        assert row["jaccard"] == 1.0
        assert row["document_id"] > first[row["segment_id"]]
    assert found.found.outcomes.total() == len(found.kept) + len(found.dropped) == len(rows)


@pytest.mark.parametrize(("parts", "sources"), [(1, 5), (4, 1), (7, 3)])
def test_rows_do_not_depend_on_files_parts_and_order(tmp_path, parts, sources):
    rows = corpus()
    one = search(tmp_path / "one", rows)
    shuffled = random.Random(parts).sample(rows, len(rows))
    other = search(tmp_path / "other", shuffled, parts, sources)
    assert one.kept == other.kept  # in the same order, too
    order = lambda row: (row["segment_id"], row["document_id"])  # noqa: E731
    assert sorted(one.dropped, key=order) == sorted(other.dropped, key=order)


def test_sample_is_the_same_whatever_the_parts_and_the_order(tmp_path):
    rows = corpus()
    whole = search(tmp_path / "whole", rows)
    sample = search(tmp_path / "sample", rows[::-1], parts=5, sources=2, max_rows=9)
    ids = sorted((row["segment_id"] for row in whole.kept), key=lambda name: name[16:])
    assert [row["segment_id"] for row in sample.kept] == sorted(ids[:9])
    assert search(tmp_path / "one", rows, max_rows=9).kept == sample.kept
    assert sample.found.outcomes[SegmentOutcome.SURPLUS] == len(whole.kept) - 9
    assert search(tmp_path / "all", rows, max_rows=10_000).kept == whole.kept


def test_sample_has_no_more_repeated_texts_than_all_kept_ones(tmp_path):
    lone = [" ".join(random_words(seed)) for seed in range(100)]
    repeated = [" ".join(changed(random_words(seed), 2, seed * 10 + n))
                for seed in range(100, 200) for n in range(8)]  # fmt: skip
    rows = segments_of([*lone, *repeated])
    whole = search(tmp_path / "whole", rows)
    clusters = {row["duplicate_of"] for row in whole.dropped}
    assert (len(whole.kept), len(clusters)) == (200, 100)
    sample = search(tmp_path / "sample", rows, parts=3, max_rows=100)
    num_repeated = sum(row["segment_id"] in clusters for row in sample.kept)
    assert len(sample.kept) == 100
    assert 38 <= num_repeated <= 62  # of the smallest hashes, 82


# --- texts that must stay -------------------------------------------------------------------------


def test_distinct_texts_with_much_in_common_all_stay(tmp_path):
    # 40% of every text is a template, in one block at the beginning or at the end.
    template = random_words(-1, 48)
    texts = [
        " ".join([*template, *own] if seed % 2 else [*own, *template])
        for seed in range(10_000)
        for own in [random_words(seed, 72)]
    ]
    found = search(tmp_path, segments_of(texts), parts=3)
    assert len(found.kept) == len(texts)


def chain(seed, length, jump):
    """Texts of which each is near the next one and far from the others."""
    words = random_words(seed)
    for step in range(length):
        yield " ".join(words)
        words[step * jump : (step + 1) * jump] = random_words(seed * 100 + step + 1, jump)


def test_chain_of_near_duplicates_keeps_every_text_that_is_far_from_the_kept_ones(tmp_path):
    texts = [text for seed in range(30) for text in chain(seed, 8, 6)]
    found = search(tmp_path, segments_of(texts), parts=2)
    kept = [grams(text) for text in found.kept_texts]
    for row in found.dropped:
        assert max(jaccard(grams(row["text"]), other) for other in kept) >= 0.8
    # A closure over the chains would keep 30 texts. Of eight in a chain at least three stay.
    assert len(found.kept) >= 90
    assert found.found.outcomes[SegmentOutcome.NEAR_DUPLICATE] > 50


def test_similar_texts_below_the_threshold_stay(tmp_path):
    words = random_words(0)
    texts = [" ".join(changed(words, 4, n)) for n in range(40)]  # Jaccard about 0.5 of each pair
    found = search(tmp_path, segments_of(texts))
    assert len(found.kept) == len(texts)


def test_large_cluster_leaves_one_text(tmp_path):
    words = random_words(0, 300)
    texts = [" ".join(changed(words, 2, n)) for n in range(150)]  # Jaccard about 0.87 of each pair
    found = search(tmp_path, segments_of(texts), parts=3)
    assert len(found.kept) == 1
    assert found.found.clusters == [(found.kept[0]["segment_id"], 149)]


# --- alarms, resume -------------------------------------------------------------------------------


def test_host_and_cluster_that_lose_most_of_their_rows_give_an_alarm(tmp_path):
    words = random_words(0)
    same = [" ".join(changed(words, 1, n)) for n in range(MIN_ALARM_ROWS)]
    alone = [" ".join(random_words(seed)) for seed in range(1, MIN_ALARM_ROWS + 1)]
    urls = ["https://Copies.example/a"] * len(same) + ["https://own.example/b"] * len(alone)
    found = search(tmp_path, segments_of([*same, *alone], urls), parts=3, sources=2)
    kept = next(row for row in found.kept if row["url"].startswith("https://Copies"))
    assert found.found.alarms == [
        f"99 of 200 rows repeat the text {kept['segment_id']} (duplicate_of)",
        "99 of 100 rows of copies.example are duplicates",
    ]
    quiet = search(tmp_path / "quiet", segments_of(alone, urls[:100]))
    assert quiet.found.alarms == []


def test_rows_of_files_and_broken_urls_have_no_host(tmp_path):
    texts = [" ".join(random_words(seed)) for seed in range(3)]
    found = search(tmp_path, segments_of(texts, ["a.md", "http://[broken", ""]))
    assert len(found.kept) == 3
    assert found.found.hosts == []


def test_killed_search_runs_no_finished_task_again(tmp_path):
    rows = corpus()
    whole = search(tmp_path / "whole", rows, parts=3, sources=2)

    def until_the_pairs(label, work, items):
        if label == "texts carried":
            raise KeyboardInterrupt
        return one_by_one(label, work, items)

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "again", rows, parts=3, sources=2, tasks=until_the_pairs)
    for file in (tmp_path / "again/work").rglob("partition/*.arrow"):
        file.unlink()  # a task that ran again would miss them or write them anew
    again = search(tmp_path / "again", rows, parts=3, sources=2)
    assert not list((tmp_path / "again/work").rglob("partition/*.arrow"))
    assert again.kept == whole.kept
    assert again.found == whole.found


def test_parts_without_rows_are_no_problem(tmp_path):
    found = search(tmp_path, segments_of(["one text"]), parts=3)
    assert len(found.kept) == 1
    assert found.found.num_pairs == 0
