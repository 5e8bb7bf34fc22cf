"""Recipes: every shipped one loads; a mistake is one line that names it and the way out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from humpback_ray.config.fields import locations
from humpback_ray.config.recipe import load_recipe, recipe_names
from humpback_ray.config.settings import EndpointSettings, TrainingSettings
from humpback_ray.errors import UserError

SHIPPED = ["llama-33b", "llama-65b", "llama-7b", "smollm2", "tiny"]


def test_the_shipped_recipes_are_those_of_the_readme():
    assert recipe_names() == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_loads(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.settings.iterations == 2


@pytest.mark.parametrize("name", ["llama-33b", "llama-65b", "llama-7b"])
def test_the_llama_recipes_keep_the_papers_values(name):
    settings = load_recipe(name).settings
    for training in (settings.backward_training, settings.forward_training):
        assert (training.learning_rate, training.final_learning_rate) == (1e-5, 9e-6)
        assert (training.weight_decay, training.dropout) == (0.1, 0.1)
        assert training.batch_size is None
    assert (settings.augmentation.temperature, settings.augmentation.top_p) == (0.7, 0.9)
    assert (settings.selection.method, settings.selection.k) == ("threshold", 4.5)
    assert (settings.corpus.min_characters, settings.corpus.max_characters) == (600, 3000)
    assert settings.seed.max_pairs == 3200


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("settings.raing.method=text", r"unknown key settings\.raing \(did you mean 'rating'\?\)"),
        ("settings.rating.metod=text", r"unknown key .*metod \(did you mean 'method'\?\)"),
        ("settings.base.hiden_size=8", r"unknown key .*hiden_size \(did you mean 'hidden_size'"),
        ("placement.engine.gpus=1", r"unknown key placement\.engine\.gpus \(valid: .*max_engines"),
        (
            "settings.corpus.quality_rules=[goph]",
            r"quality_rules\.0: .*'gopher', 'c4' or 'fineweb'",
        ),
        ("settings.corpus.quality_rules=[c4, c4]", r"quality_rules: each name may stand here once"),
        ("settings.corpus.blocked=[a b]", r"blocked\.0: an entry .* such as .*'a b'"),
        ("settings.selection.k=7", r"settings\.selection\.k: .*less than or equal to 5"),
        ("settings.selection.k=0.5", r"settings\.selection\.k: .*greater than or equal to 1"),
        ("settings.selection.k=high", r"settings\.selection\.k: .*valid number.*'high'"),
        ("settings.rating.method=vote", r"settings\.rating\.method: .*'expected', 'text'"),
        (
            "settings.rating.rubric=points",
            r"settings\.rating\.rubric: .*'five_grades' or 'additive'",
        ),
        ("settings.rating.endpoint={model: m}", r"settings\.rating\.endpoint\.url is missing"),
        ("settings.rating.endpoint={url: host, model: m}", r"endpoint\.url: .*https.*'host'"),
        ("settings.rating.endpoint={url: 'http://host:80a', model: m}", r"url: .*port.*host:80a'"),
        ("settings.rating.endpoint={url: 'http://host:99999', model: m}", r"url: .*port.*99999'"),
        ("settings.rating.endpoint={url: 'http://host:0/v1', model: m}", r"url: .*port.*:0/v1'"),
        ("settings.rating.endpoint={url: 'http://', model: m}", r"url: .*no host.*'http://'"),
        ("settings.rating.endpoint={url: 'http://:80/v1', model: m}", r"url: .*no host.*:80/v1'"),
        ("settings.rating.endpoint={url: 'ftp://x', model: m}", r"url: .*https://HOST.*'ftp://x'"),
        ("settings.rating.endpoint={url: 'http://a b/v1', model: m}", r"url: .*space.*'http://a b"),
        (
            "settings.rating.endpoint={url: 'http://[::1/v1', model: m}",
            r"url: .*IPv6.*'http:..\[::1",
        ),
        ("settings.seed.path='https://h:1a/p'", r"settings\.seed\.path: .*port.*'https://h:1a/p'"),
        ("settings.corpus.path='s3://'", r"settings\.corpus\.path: nothing follows s3://.*'s3://'"),
        ("settings.evaluation.prompts=http://a:b/p", r"settings\.evaluation\.prompts: .*port.*a:b"),
        ("settings.prompts.rating_template=gs:///", r"settings\.prompts\.rating_template: "),
        ("settings.base={model: 'http:///m'}", r"settings\.base\.model: .*no host.*'http:///m'"),
        ("placement.cluster.address=head", r"address: it has no port: write auto.*'head'"),
        ("placement.cluster.address='ray://head:1a'", r"address: its port is no.*'ray://head:1a'"),
        ("placement.cluster.address='he ad:6379'", r"address: .*space.*'he ad:6379'"),
        (
            "placement.cluster.address='http://h:8265'",
            r"dashboard: `humpback submit --address http",
        ),
        ("placement.endpoint.requests_per_second=0", r"requests_per_second: .*greater than 0"),
        ("settings.iterations=0", r"settings\.iterations: .*greater than 0"),
        ("settings.corpus.max_characters=10", "no segment could be kept"),
        ("placement.engine.min_engines=4", "min_engines 4 is above max_engines 1"),
        ("settings", "takes a.b=c"),
        ("settings..k=1", "takes a.b=c"),
        ("name.first=x", "'name' is a value, not a section"),
        ("name=a/b", "name: "),
    ],
)
def test_mistake_in_a_recipe_is_refused_in_one_line(override, message):
    with pytest.raises(ValueError, match=message) as mistake:
        load_recipe("tiny", [override])
    assert "\n" not in str(mistake.value)


@pytest.mark.parametrize(
    "override",
    [
        "settings.rating.endpoint={url: 'https://user:word@host:8000/v1/', model: m}",
        "settings.rating.endpoint={url: 'HTTP://[::1]:80', model: m}",
        "settings.seed.path=s3://bucket/a folder/seed.jsonl",
        "settings.seed.path='zip://seed.jsonl::https://host/a.zip'",
        "settings.corpus.path='a::b.md'",
        "settings.corpus.path=file:///corpus",
        "placement.cluster.address='[::1]:6379'",
        "placement.cluster.address=ray://head:10001",
        "placement.cluster.address=auto",
    ],
)
def test_valid_url_in_a_recipe_is_kept(override):
    key, _, value = override.partition("=")
    node = load_recipe("tiny", [override])
    for name in key.split("."):
        node = getattr(node, name)
    wanted = yaml.safe_load(value)
    assert node == (EndpointSettings(**wanted) if isinstance(wanted, dict) else wanted)


def test_rubric_beside_a_rating_template_is_refused_in_one_line():
    template = "settings.prompts.rating_template=mine.txt"
    with pytest.raises(ValueError, match=r"rubric=additive and .*leave one of them out") as mistake:
        load_recipe("tiny", [template, "settings.rating.rubric=additive"])
    assert "\n" not in str(mistake.value)
    settings = load_recipe("tiny", [template]).settings
    assert settings.rating.grades == range(1, 6)
    additive = load_recipe("tiny", ["settings.rating.rubric=additive"]).settings
    assert additive.rating.grades == range(6)


@pytest.mark.parametrize("key", ["sk-1234567890abcdef", "Bearer ABC", "abc", ""])
def test_a_key_in_a_recipe_is_refused_and_not_shown(key):
    with pytest.raises(ValueError, match="name of an environment variable") as mistake:
        load_recipe("tiny", [f"placement.endpoint.api_key_variable={key!r}"])
    assert not key or key not in str(mistake.value)
    recipe = load_recipe("tiny", ["placement.endpoint.api_key_variable=OPENAI_API_KEY"])
    assert recipe.placement.endpoint.api_key_variable == "OPENAI_API_KEY"


def test_an_unknown_recipe_is_named_with_the_nearest():
    with pytest.raises(ValueError, match=r"no recipe 'lama-7b'.*did you mean 'llama-7b'"):
        load_recipe("lama-7b")


@pytest.mark.parametrize("content", ["a: [", "- 1", "", b"\xff\xfe"])
def test_file_that_is_no_recipe_is_refused(tmp_path, content):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match="recipe"):
        load_recipe(str(path))


def test_files_beside_a_recipe_are_found(tmp_path):
    content = yaml.safe_load(
        "{name: mine, settings: {base: {model: org/model}, seed: {path: pairs.jsonl},"
        " corpus: {path: texts}, evaluation: {prompts: s3://bucket/prompts.json}}}"
    )
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "pairs.jsonl").touch()
    settings = load_recipe(str(tmp_path / "mine.yaml")).settings
    assert settings.seed.path == str(tmp_path / "pairs.jsonl")
    assert settings.corpus.path == "texts"
    assert settings.evaluation.prompts == "s3://bucket/prompts.json"
    assert settings.base.model == "org/model"


def test_base_model_beside_a_recipe_is_found_from_any_working_folder(tmp_path, monkeypatch):
    (tmp_path / "recipes" / "model").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    recipe = tmp_path / "recipes" / "mine.yaml"
    recipe.write_text(
        "{extends: llama-7b, name: mine, settings: {base: {model: model}, corpus: {path: .}}}"
    )
    for folder, path in (("elsewhere", recipe), (".", Path("recipes/mine.yaml"))):
        monkeypatch.chdir(tmp_path / folder)
        assert load_recipe(str(path)).settings.base.model == str(tmp_path / "recipes" / "model")
    override = ["settings.base={model: org/model}"]
    assert load_recipe(str(recipe.resolve()), override).settings.base.model == "org/model"


def test_location_of_a_recipe_lies_beside_it_though_the_working_folder_has_that_name_too(
    tmp_path, monkeypatch
):
    mine = write(
        tmp_path / "mine",
        recipe="{extends: llama-7b, name: r, settings: {corpus: {path: texts}, seed: {path: s}}}",
    )
    for folder in (mine, tmp_path):
        (folder / "texts").mkdir()
    (tmp_path / "s").touch()
    monkeypatch.chdir(tmp_path)
    recipe = str(mine / "recipe.yaml")
    settings = load_recipe(recipe).settings
    assert settings.corpus.path == str(mine / "texts")
    assert settings.seed.path == "s", "only the working folder has it"
    typed = load_recipe(recipe, ["settings.corpus.path=texts"]).settings
    assert typed.corpus.path == "texts", "people complete names from where they are"


@pytest.mark.parametrize("name", ["texts/*.md", "te?ts", "**/a.md", "dangling", "a::b", "texts"])
def test_pattern_link_or_odd_name_beside_a_recipe_is_found_from_elsewhere(
    name, tmp_path, monkeypatch
):
    mine = write(
        tmp_path / "my [1] recipes",
        recipe=f"{{extends: llama-7b, name: r, settings: {{corpus: {{path: '{name}'}}}}}}",
    )
    (mine / "texts").mkdir()
    (mine / "texts" / "a.md").touch()
    (mine / "a::b").touch()
    (mine / "dangling").symlink_to("nowhere")
    monkeypatch.chdir("/")
    settings = load_recipe(str(mine / "recipe.yaml")).settings
    assert settings.corpus.path == f"{mine}/{name}"


def test_list_of_places_is_found_beside_its_recipe(tmp_path, monkeypatch):
    mine = write(
        tmp_path / "mine",
        recipe="""
            extends: llama-7b
            name: r
            settings:
              corpus: {path: [texts, 'data [v1]/*.md', 's3://bucket/x', dataset://org/name, other]}
        """,
    )
    (mine / "texts").mkdir()
    (mine / "data [v1]").mkdir()
    (mine / "data [v1]" / "a.md").touch()
    monkeypatch.chdir("/")
    recipe = str(mine / "recipe.yaml")
    corpus = load_recipe(recipe).settings.corpus
    assert corpus.paths == corpus.path == (
        f"{mine}/texts", f"{mine}/data [v1]/*.md", "s3://bucket/x", "dataset://org/name", "other",
    )  # fmt: skip
    typed = load_recipe(recipe, ["settings.corpus.path=[b, a]"]).settings
    assert typed.corpus.path == ("b", "a")
    marked = [(key, value) for key, _, value in locations(typed) if key.startswith("corpus")]
    assert marked == [("corpus.path.0", "b"), ("corpus.path.1", "a")]
    one = load_recipe(recipe, ["settings.corpus.path=[texts]"]).settings.corpus
    assert (one.path, one.paths) == (f"{mine}/texts", (f"{mine}/texts",))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[]", r"settings\.corpus\.path: a list has one path or more \(it is \[\]\)"),
        ("[a, 3]", r"settings\.corpus\.path: a list has one path or more \(it is \['a', 3\]\)"),
        ("[a, b, a]", r"settings\.corpus\.path: 'a' is in the list twice: keep one"),
        ("{a: b}", r"settings\.corpus\.path: a path is wanted, or a list of paths"),
        ("[a, 's3://']", r"settings\.corpus\.path\.1: nothing follows s3://.*'s3://'"),
        ("[a, 'dataset://a/b/c']", r"settings\.corpus\.path\.1: a dataset is ORG/NAME"),
    ],
)
def test_list_of_places_that_can_name_nothing_is_refused(value, message):
    with pytest.raises(ValueError, match=message) as error:
        load_recipe("llama-7b", [f"settings.corpus.path={value}"])
    assert "\n" not in str(error.value)


def test_home_folder_and_urls_in_a_recipe_stay_as_they_are(tmp_path):
    for name in ("~", "s3:"):
        (tmp_path / name).mkdir()
    write(
        tmp_path,
        recipe="{extends: llama-7b, name: r, settings: {corpus: {path: ~/x}, seed: {path: s3://b}}}",
    )
    (tmp_path / "~" / "x").mkdir()
    settings = load_recipe(str(tmp_path / "recipe.yaml")).settings
    assert (settings.corpus.path, settings.seed.path) == ("~/x", "s3://b")


def test_locations_are_the_settings_that_name_files():
    marked = {
        key: (mark.has_many_files, mark.is_read_on_nodes, mark.is_packed)
        for key, mark, _ in locations(
            load_recipe(
                "llama-7b",
                [
                    "settings.prompts.rating_template=rubric.txt",
                    "settings.rating.endpoint={url: 'http://host/v1', model: m}",
                ],
            ).settings
        )
    }
    assert marked == {
        "base.model": (True, True, False),
        "seed.path": (False, False, True),
        "corpus.path": (True, True, True),
        "prompts.rating_template": (False, False, True),
        "rating.endpoint.url": (False, False, False),
        "evaluation.prompts": (False, False, True),
    }


# --- extends ------------------------------------------------------------------------------------


def write(folder: Path, **recipes: str) -> Path:
    """Write `NAME.yaml` for every argument; returns the folder."""
    folder.mkdir(exist_ok=True)
    for name, text in recipes.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


def test_recipe_that_extends_another_merges_mappings_key_by_key(tmp_path):
    write(
        tmp_path,
        parent="""
            extends: tiny
            name: parent
            settings: {selection: {method: best}, rating: {min_scored_share: 0.3}}
            placement: {cluster: {local_cpus: 3}}
        """,
        child="""
            extends: parent.yaml
            name: child
            settings:
              selection: {num_best: 7}
              rating: {min_scored_share: null}
              corpus: {navigation_headers: [menu]}
        """,
    )
    child, tiny = load_recipe(str(tmp_path / "child.yaml")), load_recipe("tiny")
    selection = child.settings.selection
    assert (selection.method, selection.num_best, selection.share) == ("best", 7, 0.25)
    assert child.settings.rating.min_scored_share is None
    assert child.settings.corpus.navigation_headers == ("menu",)
    assert child.settings.seed == tiny.settings.seed
    assert child.settings.backward_training == tiny.settings.backward_training
    assert (child.name, child.placement.cluster.local_cpus) == ("child", 3)
    assert child.placement.training == tiny.placement.training


def test_override_applies_after_extends(tmp_path):
    write(tmp_path, child="{extends: tiny, name: child, settings: {iterations: 3}}")
    path = str(tmp_path / "child.yaml")
    assert load_recipe(path).settings.iterations == 3
    assert load_recipe(path, ["settings.iterations=4"]).settings.iterations == 4
    changed = load_recipe(path, ["settings.forward_training.num_steps=3"]).settings
    assert (changed.forward_training.num_steps, changed.backward_training.num_steps) == (3, 24)


def test_section_of_another_kind_replaces_that_of_the_parent(tmp_path):
    write(
        tmp_path,
        child="{extends: tiny, name: child, settings: {base: {kind: pretrained, model: a/b}}}",
    )
    base = load_recipe(str(tmp_path / "child.yaml")).settings.base
    assert (base.kind, base.model) == ("pretrained", "a/b")


def test_location_in_a_parent_is_found_beside_the_parent(tmp_path):
    shared = write(
        tmp_path / "shared",
        parent="""
            extends: tiny
            name: parent
            settings: {seed: {path: s.jsonl}, evaluation: {prompts: p.json}}
        """,
    )
    mine = write(
        tmp_path / "mine",
        child="""
            extends: ../shared/parent.yaml
            name: child
            settings: {evaluation: {prompts: p.json}}
        """,
    )
    for file in (shared / "s.jsonl", shared / "p.json", mine / "p.json", mine / "s.jsonl"):
        file.touch()
    settings = load_recipe(str(mine / "child.yaml")).settings
    assert Path(settings.seed.path).samefile(shared / "s.jsonl")
    assert Path(settings.evaluation.prompts).samefile(mine / "p.json")


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("{extends: b.yaml, name: a}", r"in a cycle: \S+a.yaml -> \S+b.yaml -> \S+a.yaml; drop"),
        ("{extends: a.yaml, name: a}", r"in a cycle: \S+a.yaml -> \S+a.yaml; drop one `extends`"),
        ("{extends: tiny}", "a.yaml extends tiny and has no name: add `name: ...`"),
        ("{extends: tinny, name: a}", r"a.yaml extends tinny: no recipe.*did you mean 'tiny'\?"),
        ("{extends: [tiny], name: a}", r"extends is \['tiny'\], and must be the name of a shipped"),
        ("{extends: tiny, name: a, settings: {sed: {}}}", r"unknown key settings.sed .*'seed'"),
        ("{exteds: tiny, name: a}", r"unknown key exteds \(did you mean 'extends'\?\)"),
    ],
)
def test_wrong_extends_is_refused_in_one_line(tmp_path, recipe, message):
    write(tmp_path, a=recipe, b="{extends: a.yaml, name: b}")
    with pytest.raises(UserError, match=message) as mistake:
        load_recipe(str(tmp_path / "a.yaml"))
    assert "\n" not in str(mistake.value)


def test_key_given_twice_is_refused_with_its_lines(tmp_path):
    write(tmp_path, a="extends: tiny\nname: a\nsettings:\n  iterations: 1\n  iterations: 2\n")
    with pytest.raises(UserError, match=r"'iterations' is given twice.* lines 4 and 5") as mistake:
        load_recipe(str(tmp_path / "a.yaml"))
    assert "\n" not in str(mistake.value)
    assert str(tmp_path / "a.yaml") in str(mistake.value)


def test_key_given_twice_in_an_override_is_refused():
    with pytest.raises(UserError, match=r"--set settings.selection=.*'k' is given twice"):
        load_recipe("tiny", ["settings.selection={k: 4, method: best, k: 5}"])


def test_key_that_replaces_one_of_an_anchor_is_not_given_twice(tmp_path):
    write(
        tmp_path,
        a="""
            extends: tiny
            name: a
            settings:
              backward_training: &training {num_steps: 1, learning_rate: 0.1}
              forward_training: {<<: *training, num_steps: 2}
        """,
    )
    settings = load_recipe(str(tmp_path / "a.yaml")).settings
    assert settings.backward_training.num_steps == 1
    assert (settings.forward_training.num_steps, settings.forward_training.learning_rate) == (
        2,
        0.1,
    )


# --- overrides ----------------------------------------------------------------------------------


def test_overrides_are_yaml_values():
    recipe = load_recipe(
        "tiny", ["settings.selection.method=best", "settings.rating.min_scored_share=null"]
    )
    assert recipe.settings.selection.method == "best"
    assert recipe.settings.rating.min_scored_share is None


@pytest.mark.parametrize("module", ["humpback_ray.config", "humpback_ray.cli"])
def test_light_modules_load_no_heavy_library(module):
    code = (
        f"import sys, {module}; "
        "print([m for m in ('torch', 'vllm', 'ray', 'deepspeed', 'transformers', 'pyarrow')"
        " if m in sys.modules])"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    allowed = "[]" if module.endswith("config") else "['pyarrow']"
    assert output.strip() in ("[]", allowed)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["settings.long_prompts.policy=route_long"], "context_length belongs to policy=route"),
        (["settings.long_prompts.context_length=4096"], "context_length belongs to policy=route"),
        (["settings.base.training.lora.rank=4"], "lora adapts a model that has been trained"),
        (["placement.training.kernels=liger"], "Liger's kernels are for GPUs"),
        (["placement.engine.min_engines=3"], "min_engines 3 is above max_engines 1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(overrides, line):
    with pytest.raises(ValueError, match=line):
        load_recipe("tiny", overrides)


def test_override_of_an_anchored_section_leaves_its_alias_unchanged():
    settings = load_recipe("tiny", ["settings.forward_training.num_steps=3"]).settings
    assert settings.forward_training.num_steps == 3
    assert settings.backward_training.num_steps == 24


def test_training_settings_without_lora_leave_the_key_out():
    plain = TrainingSettings()
    assert "lora" not in plain.model_dump(mode="json")
    adapters = ["settings.forward_training.lora.rank=8"]
    training = load_recipe("tiny", adapters).settings.forward_training
    assert training.model_dump(mode="json")["lora"] == {
        "rank": 8, "alpha": 32.0, "dropout": 0.05, "target_modules": "all-linear",
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"lora\.rang.*did you mean 'rank'"):
        load_recipe("tiny", ["settings.forward_training.lora.rang=8"])
