"""Charts as inline SVG: no script, colours by CSS variables, so page and printer choose them.

Altair writes the charts and vl-convert draws them, without a browser.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from humpback_ray.report.document import Chart

WIDTH = 400  # of the plot, in units of the SVG; the page scales it
ROW_HEIGHT = 30
COLOURS = ("var(--c1)", "var(--c2)", "var(--c3)", "var(--c4)", "var(--c5)", "var(--c6)")
DASHES: tuple[list[int], ...] = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [1, 3], [10, 4])
_AXIS = {
    "labelColor": "currentColor", "titleColor": "currentColor", "gridColor": "var(--line)",
    "domainColor": "var(--line)", "tickColor": "var(--line)", "labelFontSize": 12,
    "titleFontSize": 12, "titleFontWeight": "normal", "labelLimit": 150, "gridDash": [2, 3],
    "labelOverlap": True, "labelSeparation": 6, "labelFlush": False,
}  # fmt: skip
_CONFIG = {
    "background": None,
    "font": "sans-serif",
    "view": {"stroke": None},
    "axis": _AXIS,
    "legend": {
        "labelColor": "currentColor", "titleColor": "currentColor", "labelFontSize": 12,
        "orient": "top", "title": None, "symbolSize": 180,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Interval:
    """A figure on a separate line, with its interval."""

    name: str
    value: float
    low: float | None
    high: float | None


def intervals(
    title: str, description: str, axis: str, rows: Sequence[Interval],
    reference: float | None = None, domain: tuple[float, float] | None = None,
) -> Chart:  # fmt: skip
    """Points with their intervals, one line each.

    Args:
        reference: where a vertical line shows that nothing differs.
        domain: of the axis; None: as the data has it, without a zero.
    """
    import altair as alt

    data = _data({"name": r.name, "value": r.value, "low": r.low if r.low is not None else r.value,
                  "high": r.high if r.high is not None else r.value} for r in rows)  # fmt: skip
    scale = alt.Scale(domain=list(domain)) if domain else alt.Scale(zero=False, nice=True)
    y = alt.Y("name:N", title=None, sort=None)
    bars = alt.Chart(data).mark_rule(color=COLOURS[0], strokeWidth=3, opacity=0.45)
    bars = bars.encode(y=y, x=alt.X("low:Q", title=axis, scale=scale), x2="high:Q")
    points = alt.Chart(data).mark_point(filled=True, size=90, color=COLOURS[0], opacity=1)
    layers = [bars, points.encode(y=y, x="value:Q")]
    if reference is not None:
        rule = alt.Chart(_data([{"at": reference}]))
        layers.insert(0, rule.mark_rule(color="currentColor", strokeDash=[4, 3]).encode(x="at:Q"))
    return _chart(title, description, alt.layer(*layers), ROW_HEIGHT * max(len(rows), 1))


def bars(
    title: str, description: str, axis: str, counts: Sequence[tuple[float, int]], width: float,
    marked_from: float | None = None,
) -> Chart:  # fmt: skip
    """A histogram: bars from each first value, `width` wide.

    Args:
        marked_from: bars from here on have the second colour.
    """
    import altair as alt

    data = _data({"from": first, "to": first + width, "count": count, "zero": 0,
                  "colour": COLOURS[1 if marked_from is not None and first + width > marked_from
                                    else 0]} for first, count in counts)  # fmt: skip
    chart = alt.Chart(data).mark_bar(stroke="var(--paper)", strokeWidth=1)
    chart = chart.encode(
        x=alt.X("from:Q", title=axis, scale=alt.Scale(zero=False, nice=True)),
        x2="to:Q",
        y=alt.Y("count:Q", title="pairs", axis=alt.Axis(tickMinStep=1)),
        y2="zero:Q",
        color=alt.Color("colour:N", scale=None),
    )
    return _chart(title, description, chart, 130)


def lines(
    title: str, description: str, axes: tuple[str, str],
    series: Mapping[str, Sequence[tuple[float, float]]],
) -> Chart:  # fmt: skip
    """Curves, each with another colour and dash, so that print in grey keeps them apart."""
    import altair as alt

    data = _data({"x": x, "y": y, "series": name} for name, points in series.items()
                 for x, y in points)  # fmt: skip
    names, count = list(series), len(series)
    colour = alt.Scale(domain=names, range=[COLOURS[n % len(COLOURS)] for n in range(count)])
    dash = alt.Scale(domain=names, range=[DASHES[n % len(DASHES)] for n in range(count)])
    legend = alt.Legend() if count > 1 else None
    chart = alt.Chart(data).mark_line(strokeWidth=2)
    chart = chart.encode(
        x=alt.X("x:Q", title=axes[0], scale=alt.Scale(zero=False)),
        y=alt.Y("y:Q", title=axes[1], scale=alt.Scale(zero=False)),
        color=alt.Color("series:N", scale=colour, legend=legend),
        strokeDash=alt.StrokeDash("series:N", scale=dash, legend=legend),
    )
    return _chart(title, description, chart, 170)


def _data(rows: Iterable[Mapping[str, Any]]) -> Any:
    import altair as alt

    return alt.Data(values=[dict(row) for row in rows])


def _chart(title: str, description: str, chart: Any, height: int) -> Chart:
    import vl_convert

    spec = chart.properties(width=WIDTH, height=height).to_dict()
    spec["config"] = _CONFIG
    svg = vl_convert.vegalite_to_svg(spec)
    view_box = re.search(r'viewBox="([^"]+)"', svg)
    assert view_box is not None
    return Chart(title, description, view_box[1], _elements(svg))


def _elements(svg: str) -> str:
    """The elements of an SVG document, whose size and spoken name the page gives.

    Vega's own roles and names would be spoken piece by piece.
    """
    body = svg[svg.index(">") + 1 : svg.rindex("</svg>")]
    body = re.sub(r' (?:role|class|aria-[a-z]+|pointer-events)="[^"]*"', "", body)
    body = re.sub(r"(\d\.\d\d)\d+", r"\1", body)
    assert not re.search(r'\bid="', body), "ids of several charts would collide in one page"
    return body
