"""Verdicts as rows: known ones are taken, failed ones are asked again where that may help."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow.compute as pc
import pytest

from humpback_ray import tables
from humpback_ray.evaluation import verdicts
from humpback_ray.rows import Comparison, KnownVerdict, Verdict, VerdictOutcome
from humpback_ray.serving.generate import GenerationPass
from humpback_ray.serving.missing_rows import RowFolders
from tests.support.judge_stage import of_engines, place_of
from tests.support.judging import Quality, asked, judged


def test_comparisons_and_verdicts_share_their_first_columns():
    names = tables.arrow_schema(Comparison).names
    assert tables.arrow_schema(Verdict).names[: len(names)] == names


@pytest.mark.parametrize(
    ("outcome", "of_engine", "of_endpoint"),
    [
        ("judged", False, False),
        ("no_answer", False, False),
        ("engine_error", True, True),
        ("no_verdict", False, True),
        ("cut", False, True),
        ("empty", False, True),
        ("prompt_too_long", False, True),
    ],
)
def test_failed_verdict_is_asked_again_where_it_may_succeed(outcome, of_engine, of_endpoint):
    outcome = VerdictOutcome(outcome)
    assert verdicts.is_asked_again(outcome, of_endpoint=False) is of_engine
    assert verdicts.is_asked_again(outcome, of_endpoint=True) is of_endpoint


# --- known verdicts -------------------------------------------------------------------------------


def known_pass(folder: Path, rows: list[Comparison]) -> GenerationPass:
    tables.write_rows(f"{folder}/_comparisons", rows, Comparison)
    task = of_engines().row_task(place_of(folder))
    return GenerationPass(f"{folder}/_comparisons", f"{folder}/rows", task)


def test_judged_questions_are_kept_and_taken_whichever_models_ask_them(tmp_path):
    rows = asked(num_prompts=4, num_control_prompts=2)
    known = f"{tmp_path}/known"
    tables.write_rows(f"{tmp_path}/old", judged(rows, Quality()), Verdict)
    verdicts.keep(f"{tmp_path}/old", known)
    verdicts.keep(f"{tmp_path}/old", known)
    kept = tables.read_rows(known, KnownVerdict)
    assert len(kept) == len({row.key for row in rows})

    turned = [
        replace(
            row, verdict_id=f"{row.opponent}/{row.verdict_id}", model=row.opponent,
            opponent=row.model, output=row.opponent_output, opponent_output=row.output,
            is_model_first=not row.is_model_first,
        )
        for row in rows
    ]  # fmt: skip
    work = known_pass(tmp_path, turned)
    assert verdicts.take_known(work, known) == len(rows)
    assert verdicts.take_known(work, known) == 0
    taken = tables.read_rows(work.target, Verdict)
    before = {row.verdict_id: row.preference for row in judged(rows, Quality())}
    for row in taken:
        old = row.verdict_id.partition("/")[2]
        assert row.preference == pytest.approx(1 - before[old])
        assert row.num_prompt_tokens == 0


def test_failed_verdicts_are_not_kept(tmp_path):
    rows = judged(asked(num_prompts=3, missing={("M_1", "prompt-00001")}), Quality())
    rows[0] = replace(rows[0], preference=None, outcome="no_verdict")
    tables.write_rows(f"{tmp_path}/old", rows, Verdict)
    verdicts.keep(f"{tmp_path}/old", f"{tmp_path}/known")
    kept = {row.key for row in tables.read_rows(f"{tmp_path}/known", KnownVerdict)}
    assert kept == {row.key for row in rows if row.preference is not None}
    assert rows[0].key not in kept


def test_dropped_answers_leave_the_others_saved_once(tmp_path):
    rows = judged(asked(num_prompts=3), Quality())
    rows[5] = replace(rows[5], preference=None, outcome="engine_error")
    folders = RowFolders(f"{tmp_path}/_comparisons", f"{tmp_path}/rows", "verdict_id")
    known_pass(tmp_path, asked(num_prompts=3))
    (shard,) = folders.shards()
    for part in (rows[:10], rows[10:]):
        folders.save_shard(shard.key, tables.to_table(part, Verdict))

    def has_failed(table):
        return pc.equal(table["outcome"], "engine_error")

    assert folders.drop(has_failed) == 1
    assert folders.drop(has_failed) == 0
    left = [row.verdict_id for row in tables.read_rows(folders.target, Verdict)]
    assert sorted(left) == sorted(row.verdict_id for row in rows if row is not rows[5])
    folders.save_shard(shard.key, tables.to_table(rows[:1], Verdict))
    folders.drop(lambda table: pc.equal(table["verdict_id"], rows[0].verdict_id))
    assert len(tables.read_rows(folders.target, Verdict)) == len(left) - 1
