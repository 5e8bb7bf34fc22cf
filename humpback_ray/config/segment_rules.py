"""Settings of the corpus rules that the paper's recipe does not have: all of them are off.

The numbers of the published rule sets stand in `method/quality/`, because a set's name means the
numbers that its authors published.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from humpback_ray.config.fields import Frozen, LanguageCode, Location
from humpback_ray.config.urls import blocked_entry

QualityRuleSet = Literal["gopher", "c4", "fineweb"]
Form = Literal["list", "how_to", "first_person"]


def _detectable(language: str) -> str:
    from resiliparse.parse.lang import supported_langs  # not at the top: no other setting needs it

    if language not in (known := sorted(supported_langs())):
        raise ValueError(
            f"the detector knows the languages {', '.join(known)} (it is {language!r})"
        )
    return language


def _different(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError(f"each name may stand here once, and these are {', '.join(names)}")
    return tuple(sorted(names))  # in any order they are the same rules


class SegmentRules(Frozen):
    """Rules for documents and sections beside the paper's."""

    # True: the text of a page without any header is one segment. The paper takes trees under
    # headers only. Plain text has no headers and is cut at blank lines either way.
    whole_pages: bool = False

    # null: any language. The paper's corpus is the English part of ClueWeb22, chosen before its
    # rules. A language of resiliparse's detector, which looks at each segment.
    language: Annotated[LanguageCode, AfterValidator(_detectable)] | None = None
    # Ranks, the detector's distances, by which the language may lie behind the best one. Ours: code
    # in a text costs it a few ranks. With 10 instead of 0 the English READMEs of installed packages
    # keep 97% of their segments instead of 95%, and pieces of 600 characters out of translated
    # manual pages are taken for English in 1% more of the cases.
    language_margin: Annotated[int, Field(ge=0)] = 10

    # Gopher (arXiv 2112.11446, table A1 and appendix A.1), C4 (arXiv 1910.10683, section 2.2),
    # FineWeb (arXiv 2406.17557, section 3), with the numbers that they publish.
    quality_rules: Annotated[tuple[QualityRuleSet, ...], AfterValidator(_different)] = ()
    # Forms of text to leave out; English only. Rules and numbers are ours: `method/quality/forms`.
    form_rules: Annotated[tuple[Form, ...], AfterValidator(_different)] = ()

    # Documents that are left out: hosts with all below them (example.com, also www.example.com), or
    # URLs with all below them (example.com/forum). In the file one on each line; # begins a remark.
    blocked: tuple[Annotated[str, AfterValidator(blocked_entry)], ...] = ()
    blocked_file: Annotated[str | None, Location()] = None

    # True: e-mail addresses and public IPv4 addresses are replaced, as in FineWeb.
    replace_personal_data: bool = False
