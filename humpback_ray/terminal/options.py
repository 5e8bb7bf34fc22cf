"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

RecipeArgument = Annotated[
    str, typer.Argument(help="Name of a shipped recipe, or a YAML file.", show_default=False)
]
RunOrJobArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="Folder or URL of a run, or the id of its job.", show_default=False
    ),
]
RunOption = Annotated[
    str | None, typer.Option("--run", help="Folder or URL of the run. [runs/NAME]")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a setting or placement: a.b=c. May be repeated."),
]
UntilOption = Annotated[str | None, typer.Option(help="Stop after this stage.")]
PriceOption = Annotated[str | None, typer.Option(help="Price of one GPU, as 2.5/gpu-hour.")]
AddressOption = Annotated[
    str | None,
    typer.Option(
        help="Dashboard of the cluster, as http://HEAD:8265. [RAY_API_SERVER_ADDRESS, RAY_ADDRESS]"
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
IntoOption = Annotated[
    str | None, typer.Option(help="Folder of this machine for studies and votes. [RUN/people]")
]
