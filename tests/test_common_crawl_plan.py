"""The recipe of the plan for a Common Crawl month is one that loads."""

from __future__ import annotations

import re
from pathlib import Path

from humpback_ray.config.recipe import load_recipe

PLAN = Path(__file__).parents[1] / "docs" / "common_crawl.md"


def test_recipe_of_the_common_crawl_plan_loads(tmp_path):
    (content,) = re.findall(r"```yaml\n(.*?)```", PLAN.read_text(), re.DOTALL)
    (tmp_path / "common-crawl.yaml").write_text(content)
    recipe = load_recipe(str(tmp_path / "common-crawl.yaml"))
    corpus = recipe.settings.corpus
    assert len(corpus.paths) == 2
    assert corpus.max_segments == 5_000_000
    assert recipe.placement.engine.max_engines == 128
    # A task hands on its texts as one column of at most 2 GiB.
    assert recipe.placement.corpus.rows_per_task * corpus.max_characters < 2**31
