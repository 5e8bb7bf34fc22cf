"""Licences by the names that the Hugging Face hub accepts in the front matter of a card."""

from __future__ import annotations

import re

# https://huggingface.co/docs/hub/repositories-licenses. A licence that the hub knows and this list
# does not becomes `other` with its name, which the hub accepts too.
_NAMES = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0
bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear
c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0
cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl
ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0
isc lppl-1.3c ms-pl mpl-2.0 odc-by odbl openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib
pddl lgpl-lr deepfloyd-if-license llama2 llama3 llama3.1 llama3.2 llama3.3 gemma unknown
"""
HUB_LICENCES = frozenset(_NAMES.split())


def front_matter_of(licence: str | None) -> dict[str, str]:
    """The entries of a card's front matter that name a licence; none for None.

    Args:
        licence: a name of the hub's, an SPDX identifier, or any other name.
    """
    if not licence:
        return {}
    if licence.casefold() in HUB_LICENCES:
        return {"license": licence.casefold()}
    name = re.sub(r"[^a-z0-9.]+", "-", licence.casefold()).strip("-.")
    return {"license": "other", "license_name": name} if name else {"license": "other"}
