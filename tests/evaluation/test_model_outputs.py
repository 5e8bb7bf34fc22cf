"""Model outputs in AlpacaEval's format: what does not count is counted, other files are refused."""

from __future__ import annotations

import json

import pytest

from humpback_ray.errors import UserError
from humpback_ray.evaluation import published
from humpback_ray.evaluation.model_outputs import Output, read_outputs

KEY = "settings.evaluation.reference"


def row(instruction="Why?", output="So.", generator="guanaco", **more):
    return {"instruction": instruction, "output": output, "generator": generator, **more}


def written(tmp_path, content, name="outputs.json") -> str:
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return str(path)


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_outputs_are_read_by_prompt(tmp_path, mark):
    rows = [row(dataset="x", datasplit="eval"), row("Who?", "", input="Ben")]
    found = read_outputs(written(tmp_path, mark + json.dumps(rows)), KEY)
    assert found.model == "guanaco"
    assert found.by_prompt == {
        "Why?": Output("Why?", "So.", "x"), "Who?\n\nBen": Output("Who?\n\nBen", "", ""),
    }  # fmt: skip
    assert found.left_out == {}


def test_entries_that_do_not_count_are_counted_by_reason(tmp_path):
    rows = [row(), row("Who?"), row(output="Again."), row(7), row("What?", None), "text"]
    found = read_outputs(written(tmp_path, rows), KEY)
    assert {prompt: output.text for prompt, output in found.by_prompt.items()} == {
        "Why?": "So.", "Who?": "So.",
    }  # fmt: skip
    assert found.left_out == {"prompt repeated": 1, "no text as instruction or output": 3}


def test_prompts_are_one_whatever_spaces_stand_at_their_ends(tmp_path):
    found = read_outputs(
        written(tmp_path, [row("Why?\n"), row(" Why?", "Again."), row("Who?")]), KEY
    )
    assert found.left_out == {"prompt repeated": 1}
    assert found.by_prompt["Why?"] == Output("Why?\n", "So.", "")


def test_model_is_named_by_the_caller_the_generator_or_the_file(tmp_path):
    named, unnamed = written(tmp_path, [row()]), written(tmp_path, [row(generator="")], "ben.json")
    assert read_outputs(named, KEY, "old").model == "old"
    assert read_outputs(named, KEY).model == "guanaco"
    assert read_outputs(unnamed, KEY).model == "ben"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "are no JSON"),
        ("{}", "are no list"),
        ("[]", "have no answer in 0 entries"),
        ('["text"]', "have no answer in 1 entries"),
        ([row(), row("Who?", generator="other")], r"of 2 models \(guanaco, other\)"),
        ([row(), row("Who?", generator="o\nther" + "x" * 999)], r"\(guanaco, o therx{54}\)"),
        (
            [row(generator='=HYPERLINK("http://x")')],
            r"'=HYPERLINK.* first of them none of = \+ - @",
        ),
        ([row(generator="@SUM(A1)")], "which is no name: change `generator`"),
        ([row(generator="two\nlines")], r"'two\\nlines', which is no name"),
        ([row(generator="\u202egpj")], r"'\\u202egpj', which is no name"),
        ([row(generator="\ud800")], r"'\\ud800', which is no name"),
        ([row(generator="模" * 70)], "at most 200 bytes"),
    ],
)
def test_outputs_in_another_format_are_refused_in_one_line(tmp_path, content, reason):
    path = written(tmp_path, content)
    with pytest.raises(UserError, match=reason) as error:
        read_outputs(path, KEY)
    assert KEY in str(error.value)
    assert "\n" not in str(error.value)
    source = published.reference_source(path)
    assert source is not None
    assert (source.identity, source.problem) == (None, str(error.value))


# --- reference and compared -----------------------------------------------------------------------


def test_sources_of_published_outputs_have_problems_with_their_settings(tmp_path):
    assert published.reference_source(None) is published.compared_source(None) is None
    written(tmp_path, [row()], "a.json")
    written(tmp_path, [{"instruction": "x", "generator": "b"}], "b.json")
    broken = published.compared_source(f"{tmp_path}/*.json")
    assert broken is not None
    assert broken.identity is None
    assert "b.json have no answer in 1 entries" in broken.problem
    assert published.COMPARED_KEY in broken.problem
    (tmp_path / "b.json").unlink()
    compared, reference = (
        published.compared_source(f"{tmp_path}/*.json"),
        published.reference_source(f"{tmp_path}/a.json"),
    )
    assert compared is not None
    assert reference is not None
    assert compared.identity
    assert reference.identity
    missing = published.reference_source(f"{tmp_path}/c.json")
    assert missing is not None
    assert missing.identity is None
    assert published.REFERENCE_KEY in missing.problem


def test_published_outputs_are_the_references_then_the_others(tmp_path):
    others = tmp_path / "others"
    others.mkdir()
    reference = written(tmp_path, [row(generator="davinci")])
    for name in ("lima", "guanaco"):
        written(others, [row(generator=name)], f"{name}.json")
    found = published.read_published(reference, f"{others}/*.json")
    assert [outputs.model for outputs in found] == ["davinci", "guanaco", "lima"]
    assert published.read_published(None, None) == []
