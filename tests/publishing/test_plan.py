"""`humpback push --dry-run`: the cards that the hub reads, and every file that would go there."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest
from huggingface_hub import DatasetCard, ModelCard
from markdown_it import MarkdownIt
from typer.testing import CliRunner

from humpback_ray import tables
from humpback_ray.cli import app
from humpback_ray.errors import UserError
from humpback_ray.publishing.plan import PushRequest, Repository, plan_push
from humpback_ray.rows import TrainingExample
from tests.support.benchmark_run import OVERRIDE as BENCHMARKS
from tests.support.published_run import FILES, write_published_run
from tests.support.run_folder import Texts, judge_figures

RUNNER = CliRunner()
TAGS = ["instruction-backtranslation", "humpback", "arxiv:2308.06259"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return write_published_run(tmp_path_factory.mktemp("runs") / "demo", judge=judge_figures())


def planned(run: Path, **more) -> dict[str, Repository]:
    """The repositories of a plan, by id."""
    return {each.repo_id: each for each in plan_push(PushRequest(str(run), **more))}


def card_text(repository: Repository) -> str:
    return Path(repository.files[0].location).read_text()


def markup(text: str) -> set[str]:
    """The HTML and the links' targets in a Markdown text."""
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(text)
    inline = [each for token in tokens for each in token.children or ()]
    html = {t.content for t in (*tokens, *inline) if t.type.startswith("html")}
    return html | {str(t.attrs["href"]) for t in inline if t.type == "link_open"}


def test_plan_has_the_data_first_then_m0_and_every_mt(run):
    repositories = planned(run, owner="acme")
    assert [(repo_id, each.kind) for repo_id, each in repositories.items()] == [
        ("acme/demo-curated", "dataset"), ("acme/demo-M_0", "model"), ("acme/demo-M_1", "model"),
        ("acme/demo-M_2", "model"),
    ]  # fmt: skip


def test_plan_lists_the_files_of_a_model_with_their_sizes_and_nothing_of_its_stage(run):
    files = planned(run, owner="acme")["acme/demo-M_2"].files
    card = run / "report/cards/demo-M_2/README.md"
    assert files[0].location == str(card)
    assert {file.path: file.num_bytes for file in files} == {
        "README.md": card.stat().st_size, **{name: len(data) for name, data in FILES.items()},
    }  # fmt: skip
    assert (run / "iter-2/model/record.json").exists()
    assert (run / "iter-2/model/metrics.jsonl").exists()


def test_model_card_is_read_back_with_its_metadata(run):
    card = ModelCard(card_text(planned(run, owner="acme")["acme/demo-M_2"]))
    assert card.data.to_dict() == {
        "library_name": "transformers", "pipeline_tag": "text-generation",
        "license": "apache-2.0", "tags": TAGS, "datasets": ["acme/demo-curated"],
    }  # fmt: skip
    for part in (
        "# demo: iter-2/model", "This model answers requests.",
        "| base model | apache-2.0; this model derives from it |",
        "| M\\_2 : base | 81.0 | 75.0 to 87.0 |", "| M\\_2 | 5.780 | 5.675 to 5.894 | 8 |",
        "| Selection, iteration 2 | 56 pairs with a score | 12 |",
        "| forward\\_training.learning\\_rate | 0.001 |", "| ray | ",
        "This model has seen no safety pairs.",
        "This run has not measured which harmful requests it refuses.",
        "| benchmarks | no stage has asked any",
    ):  # fmt: skip
        assert part in card.text, part


def test_card_without_an_owner_names_no_dataset_that_the_hub_cannot_find(run):
    card = ModelCard(card_text(planned(run)["demo-M_2"]))
    assert "datasets" not in card.data.to_dict()


def test_card_of_m0_claims_no_web_pairs(run):
    text = card_text(planned(run, owner="acme")["acme/demo-M_0"])
    assert "None of the examples of its finetuning is a text of the corpus." in text
    assert "The web texts that this model learned" not in text


def test_card_of_a_measured_model_leaves_out_what_is_measured(tmp_path):
    safety = "settings.evaluation.safety=true"
    run = write_published_run(tmp_path / "demo", overrides=[BENCHMARKS, safety])
    text = card_text(planned(run, models=("M_2",))["demo-M_2"])
    assert "has not measured" not in text
    assert "No judge and no person has compared its answers" in text
    assert "### Prompts that each model refuses" in text
    assert "### CrowS-Pairs" in text


def test_card_counts_the_safety_pairs_that_a_model_has_seen(tmp_path):
    seed = "settings.seed.safety={path: /none, share: 0.2}"
    run = write_published_run(tmp_path / "demo", overrides=[seed])
    assert "has seen 5 safety pairs" in card_text(planned(run)["demo-M_2"])


@pytest.mark.parametrize(
    ("licence", "metadata", "stated"),
    [
        (None, {"license": "unknown"}, "unknown: each web text has the licence of its page"),
        ("CC-BY-4.0", {"license": "cc-by-4.0"}, "CC-BY-4.0"),
        ("Terms of ACME 2", {"license": "other", "license_name": "terms-of-acme-2"},
         "Terms of ACME 2"),
    ],
)  # fmt: skip
def test_dataset_card_is_read_back_with_its_metadata(run, licence, metadata, stated):
    repository = planned(run, owner="acme", licence=licence)["acme/demo-curated"]
    card = DatasetCard(card_text(repository))
    data = card.data.to_dict()
    assert {key: data[key] for key in data if key.startswith("license")} == metadata
    assert data["tags"] == TAGS
    assert data["size_categories"] == ["n<1K"]
    assert [config["config_name"] for config in data["configs"]] == ["iteration-1", "iteration-2"]
    assert f"| web texts and seed pairs | {stated}" in card.text
    assert "| iteration-2 | M\\_2 | 32 | 20 | 0 | 0 | 12 |" in card.text


def test_dataset_as_planned_is_loaded_with_the_rows_of_the_run(run, tmp_path):
    repository = planned(run, owner="acme")["acme/demo-curated"]
    for file in repository.files:
        (tmp_path / file.path).parent.mkdir(exist_ok=True)
        (tmp_path / file.path).write_bytes(Path(file.location).read_bytes())
    for name in ("iteration-1", "iteration-2"):
        cache = str(tmp_path / "cache")
        loaded = datasets.load_dataset(str(tmp_path), name, split="train", cache_dir=cache)
        rows = tables.read_rows(f"{run}/{name.replace('iteration', 'iter')}/examples/rows",
                                TrainingExample)  # fmt: skip
        assert sorted(loaded["example_id"]) == [row.example_id for row in rows]
        assert len(rows) == 32


def test_hostile_texts_stay_texts_in_the_cards(tmp_path):
    hostile = "<script>alert(1)</script> **b** [x](https://evil.example) `c`\n---\n# T \u202e|"
    texts = Texts(
        header=lambda n: hostile, instruction=lambda n: hostile, answer=lambda n: hostile,
        url=lambda n: f"https://<img src=x>{n % 2}/",
    )  # fmt: skip
    judge = judge_figures() | {"judge": hostile}
    run = write_published_run(tmp_path / "demo", texts=texts, judge=judge)
    for repository in planned(run, owner="acme").values():
        text = card_text(repository)
        assert markup(ModelCard(text).text) == set()
        assert "\u202e" not in text
        assert ModelCard(text).data.to_dict()["tags"] == TAGS
    assert "\\<img src=x\\>0" in card_text(planned(run)["demo-curated"])
    assert "by \\<script\\>alert(1)" in card_text(planned(run)["demo-M_2"])


def test_cards_name_no_place_on_this_machine(tmp_path):
    places = [f"settings.corpus.path={tmp_path}/web", "settings.rating.sampling.max_tokens=9",
              "settings.rating.endpoint={url: 'http://10.1.2.3:8000/v1', model: m}"]  # fmt: skip
    run = write_published_run(tmp_path / "demo", overrides=places)
    for repository in planned(run, owner="acme").values():
        text = card_text(repository)
        assert str(tmp_path) not in text
        assert "10.1.2.3" not in text
    assert "| corpus.path | web |" in text


def test_run_without_evaluations_says_so(tmp_path):
    run = write_published_run(tmp_path / "demo", until="iter-2/model")
    text = card_text(planned(run)["demo-M_2"])
    assert "No model of this run is evaluated yet" in text
    assert "| held-out losses | no model of the run is evaluated yet |" in text


def test_model_that_is_not_finished_is_refused_with_the_finished_ones(tmp_path):
    run = write_published_run(tmp_path / "demo", until="iter-1/model")
    with pytest.raises(UserError, match=r"no finished M_2: .* --models M_yx,M_0,M_1"):
        planned(run)
    assert list(planned(run, models=("M_1",))) == ["demo-curated", "demo-M_1"]


def test_unknown_model_is_refused_with_the_known_ones(run):
    with pytest.raises(UserError, match=r"no model M_7 \(--models\): it has M_yx, M_0, M_1, M_2"):
        planned(run, models=("M_7",))


def test_name_that_the_hub_refuses_is_refused_before_any_card(run):
    with pytest.raises(UserError, match="takes no repository acme/a b-curated"):
        planned(run, owner="acme", name="a b")


def test_readme_with_a_broken_front_matter_is_refused(tmp_path):
    run = write_published_run(tmp_path / "demo")
    (run / "iter-2/model/README.md").write_text("---\na: [\n---\n")
    with pytest.raises(UserError, match=r"iter-2/model/README\.md has a front matter that the hub"):
        planned(run)


def test_model_without_a_readme_has_a_card(tmp_path):
    run = write_published_run(tmp_path / "demo")
    (run / "iter-2/model/README.md").unlink()
    card = ModelCard(card_text(planned(run)["demo-M_2"]))
    assert card.data.to_dict() == {"library_name": "transformers", "tags": TAGS}
    assert "# demo: iter-2/model" in card.text


def test_dry_run_prints_every_file_and_the_cards_and_uploads_nothing(run):
    result = RUNNER.invoke(app, ["push", str(run), "--dry-run", "--to", "acme"])
    assert result.exit_code == 0, result.output
    for part in (
        "dataset acme/demo-curated", "model acme/demo-M_2", "iteration-2/part-0.parquet",
        "model.safetensors", "1,000", "in 4 repositories", "nothing is uploaded",
    ):  # fmt: skip
        assert part in result.output


def test_folder_that_is_no_run_is_one_line_and_exit_code_2(tmp_path):
    result = RUNNER.invoke(app, ["push", str(tmp_path), "--dry-run"])
    assert result.exit_code == 2
    assert "no run in" in result.stderr
    assert result.stderr.count("\n") == 1
