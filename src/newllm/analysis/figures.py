"""The pictures: drawn once, as PNG for the report and to answer the pointer on its page.

Each is titled by what it shows, in words that hold whatever the numbers are. Colours are those of Okabe and Ito, or
viridis by depth, always with a second cue: position, shape, dash or label.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd
import vl_convert

from newllm.analysis.cost import effort, main_target
from newllm.analysis.fit import TRAIN_LOSS, gaps
from newllm.analysis.formats import settings
from newllm.analysis.published import POINTS, TRAJECTORY
from newllm.analysis.records import PATTERNS, Group
from newllm.analysis.study import Study, growth, learning_curves, plateau_epochs
from newllm.analysis.tuning import importances

WIDTH, HEIGHT, PANELS_APART = 760, 380, 60
SCALE = 1.6  # pixels of the file a unit: some 1,300 wide
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"]
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right"]
DASHES = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [1, 2], [4, 4], [10, 2]]
NOTEBOOK = ("notebook, complete run", "notebook, stopped early")
STYLE: dict[str, Any] = {
    "font": "Liberation Sans, Arial, sans-serif",
    "axis": {"labelFontSize": 14, "titleFontSize": 15, "titleFontWeight": "normal", "gridColor": "#e4e4e4"},
    "legend": {"labelFontSize": 14, "titleFontSize": 14, "orient": "bottom", "columns": 2, "labelLimit": 420,
               "symbolSize": 130},
    "title": {"fontSize": 19, "subtitleFontSize": 14, "anchor": "start", "offset": 14, "subtitlePadding": 6},
    "view": {"stroke": None},
    "background": "white",
}  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """A picture of one or two panels, which stand side by side in the file and below each other on the page."""

    name: str
    title: str
    subtitle: str
    panels: Sequence[Any]

    def png(self) -> bytes:
        """The picture as a file; the same bytes for the same numbers."""
        width = (WIDTH - PANELS_APART * (len(self.panels) - 1)) / len(self.panels)
        panels = [panel.properties(width=width, height=HEIGHT) for panel in self.panels]
        chart = alt.hconcat(*panels, spacing=PANELS_APART).resolve_legend(color="shared", shape="shared")
        title = {"text": self.title, "subtitle": self.subtitle}
        specification = {**_plain(chart), "title": title, "config": STYLE, "padding": 14}
        return bytes(vl_convert.vegalite_to_png(specification, scale=SCALE))

    def specifications(self) -> list[dict[str, Any]]:
        """The panels for the page, each as wide as it may be; names below each other, for a narrow screen."""
        style = {**STYLE, "legend": {**STYLE["legend"], "columns": 1}}
        charts = [_plain(panel.properties(width="container", height=HEIGHT)) for panel in self.panels]
        return [{**chart, "config": style} for chart in charts]


def _plain(chart: Any) -> dict[str, Any]:
    """The specification, whatever theme a user has chosen."""
    with alt.theme.enable("none"):
        return dict(chart.to_dict())


def draw_all(study: Study) -> list[Figure]:
    """Those pictures for which something was measured."""
    drawings: Sequence[Callable[[Study], Figure | None]] = [
        _perplexity_by_depth, _changed, _fit, _learning_curves, _cost, _grown, _importances,
    ]  # fmt: skip
    return [figure for draw in drawings if (figure := draw(study))]


def _scale(values: Iterable[float]) -> alt.Scale:
    """Of perplexities: without zero, logarithmic where they differ by more than five times."""
    known = list(values)
    return alt.Scale(zero=False, nice=False, padding=12, type="log" if max(known) > 5 * min(known) else "linear")


def _depths(title: str = "number of layers") -> alt.X:
    return alt.X("num_layers:Q", title=title, axis=alt.Axis(tickMinStep=1, format="d", grid=False),
                 scale=alt.Scale(zero=False, nice=False, padding=24))  # fmt: skip


def _series(names: Sequence[str], channel: Any, range_: Sequence[Any]) -> Any:
    used = [range_[index % len(range_)] for index in range(len(names))]
    return channel("series:N", title=None, scale=alt.Scale(domain=list(names), range=used))


def _means(series: str, groups: Mapping[int, Group]) -> list[dict[str, Any]]:
    estimates = {depth: group.estimate("val_ppl") for depth, group in groups.items()}
    return [
        {"series": series, "num_layers": depth, "val_ppl": one.mean, "low": one.low, "high": one.high}
        for depth, one in estimates.items()
    ]


def _with_intervals(rows: Sequence[Mapping[str, Any]], names: Sequence[str], lines: bool = True) -> Any:
    """Means by depth with their intervals, in colours and shapes by series."""
    table = pd.DataFrame(rows)
    ends = [value for row in rows for name in ("val_ppl", "low", "high") if (value := row.get(name)) is not None]
    base = alt.Chart(table).encode(
        x=_depths(),
        y=alt.Y("val_ppl:Q", title="validation perplexity", scale=_scale(ends)),
        color=_series(names, alt.Color, COLOURS),
        tooltip=["series", alt.Tooltip("num_layers", title="layers"), alt.Tooltip("val_ppl", format=".2f"),
                 alt.Tooltip("low", format=".2f"), alt.Tooltip("high", format=".2f")],
    )  # fmt: skip
    published = table["series"].isin(NOTEBOOK)
    shape = _series(names, alt.Shape, SHAPES)
    whiskers = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2.5).encode(y="low:Q", y2="high:Q")
    ours = base.properties(data=table[~published]).mark_point(size=110, filled=True, opacity=1).encode(shape=shape)
    marks = [base.mark_line(strokeWidth=1.5)] if lines else []
    marks += [whiskers] if table["low"].notna().any() else []
    hollow = base.properties(data=table[published]).mark_point(size=190, filled=False, opacity=1, strokeWidth=2.5)
    return alt.layer(*marks, ours, *([hollow.encode(shape=shape)] if published.any() else []))


def _perplexity_by_depth(study: Study) -> Figure:
    ours = f"as the notebook trained it, mean of {study.num_seeds}"
    names, rows = [ours], _means(ours, study.depths)
    if tuned := study.part_two.tuned:
        names.append(f"tuned, mean of {len(next(iter(tuned.values())).seeds)}")
        rows += _means(names[1], tuned)
    if study.comparable:
        names += NOTEBOOK
        rows += [
            {
                "series": NOTEBOOK[not point.complete],
                "num_layers": point.num_layers,
                "val_ppl": point.val_ppl,
                "low": None,
            }
            for point in POINTS
        ]
    seeds = pd.DataFrame(
        [
            {"num_layers": depth, "val_ppl": value, "seed": seed}
            for depth, group in study.depths.items()
            for seed, value in zip(group.seeds["seed"], group.values("val_ppl"), strict=True)
        ]
    )
    dots = alt.Chart(seeds).mark_circle(size=40, opacity=0.35, color=COLOURS[0]).encode(
        x=_depths(), y="val_ppl:Q", tooltip=["seed", alt.Tooltip("val_ppl", format=".3f")])  # fmt: skip
    title = f"Depth {study.best.num_layers} has the lowest perplexity as the notebook trained it"
    subtitle = "large marks: means with 95 % intervals; small dots: single models; the notebook trained one of each"
    drawn = alt.layer(dots, _with_intervals(rows, names, lines=False))
    return Figure("perplexity_by_depth", title, subtitle, [drawn])


def _changed(study: Study) -> Figure | None:
    """Every recipe with one thing changed; marks stand at their depth, so that what is equal looks equal."""
    lines: dict[str, dict[int, Group]] = {"as the notebook trained it": dict(study.depths)}
    for group in study.changed:
        lines.setdefault(settings(group.changes)[:60], {})[group.num_layers] = group
    if len(lines) == 1:
        return None
    rows = [row for name, groups in lines.items() for row in _means(name, groups)]
    longest = max(list(lines)[1:], key=lambda name: len(lines[name]))
    means = {name: [lines[name][depth].mean("val_ppl") for depth in lines[longest] if depth in lines[name]]
             for name in (longest, *lines)}  # fmt: skip
    spread = {name: max(values) - min(values) for name, values in means.items() if values}
    own = spread.get("as the notebook trained it", 0.0)
    title = f"With {longest} the depths are {spread[longest]:.2f} apart, without {own:.2f}"
    subtitle = f"means with 95 % intervals; depths {', '.join(map(str, lines[longest]))}"
    return Figure("changed_recipes", title, subtitle, [_with_intervals(rows, list(lines))])


def _fit(study: Study) -> Figure | None:
    measured = {depth: group for depth, group in study.depths.items() if group.has(TRAIN_LOSS)}
    if len(measured) < 2:
        return None
    names = ["validation loss", "training loss without dropout"]
    rows = [
        {"series": series, "num_layers": depth, "loss": group.mean(name)}
        for depth, group in measured.items()
        for series, name in zip(names, ("val_loss", TRAIN_LOSS), strict=True)
    ]
    base = alt.Chart(pd.DataFrame(rows)).encode(
        x=_depths(),
        y=alt.Y("loss:Q", title="loss in nats", scale=alt.Scale(zero=False, padding=12)),
        color=_series(names, alt.Color, COLOURS),
        tooltip=["series", alt.Tooltip("num_layers", title="layers"), alt.Tooltip("loss", format=".3f")],
    )
    chart = base.mark_line(strokeWidth=1.5) + base.mark_point(size=110, filled=True, opacity=1).encode(
        shape=_series(names, alt.Shape, SHAPES)
    )
    first, last = min(measured), max(measured)
    start = study.best.num_layers if first < study.best.num_layers < last else first
    changes = [sum(f(measured[last])) / len(f(measured[last])) - sum(f(measured[start])) / len(f(measured[start]))
               for f in (lambda group: group.values(TRAIN_LOSS), gaps)]  # fmt: skip
    text = [f"{change:+.2f}".replace("-", "−") for change in changes]
    title = f"From depth {start} to {last}: training loss {text[0]}, gap to validation {text[1]}"
    return Figure("fit", title, "means over seeds, at the best epoch; the gap is the distance of the lines", [chart])


def _learning_curves(study: Study) -> Figure:
    curves = learning_curves(study.depths.values())
    last = int(curves["epoch"].max())
    base = alt.Chart(curves).mark_line(strokeWidth=1.8).encode(
        color=alt.Color("num_layers:O", title="layers", scale=alt.Scale(scheme="viridis"),
                        legend=alt.Legend(columns=4, symbolType="stroke")),
        tooltip=[alt.Tooltip("num_layers", title="layers"), "epoch", alt.Tooltip("val_ppl", format=".2f"),
                 alt.Tooltip("num_seeds", title="models that still train")],
    )  # fmt: skip
    x = alt.X("epoch:Q", axis=alt.Axis(tickMinStep=1, format="d"), scale=alt.Scale(nice=False))
    logarithmic = alt.Scale(type="log", nice=False, padding=8)
    whole = base.encode(x=x, y=alt.Y("val_ppl:Q", title="validation perplexity (logarithmic)", scale=logarithmic))
    panels: list[Any] = [whole]
    if study.comparable and 6 in study.depths:
        published = pd.DataFrame([{"epoch": epoch, "val_ppl": value} for epoch, value in TRAJECTORY.items()])
        marks = alt.Chart(published).mark_point(shape="diamond", color="black", size=80, strokeWidth=2)
        panels = [whole + marks.encode(x="epoch:Q", y="val_ppl:Q", tooltip=["epoch", "val_ppl"])]
    if last >= 20:
        late = base.transform_filter(f"datum.epoch > {2 * last // 3}").encode(
            x=x.axis(tickCount=4), y=alt.Y("val_ppl:Q", title="the last third", scale=_scale([1.0])))  # fmt: skip
        ends = alt.Chart(curves.groupby("num_layers", as_index=False).last()).mark_text(dx=9, fontSize=14)
        ends = ends.transform_filter(f"datum.epoch > {2 * last // 3}")
        panels.append(late + ends.encode(x="epoch:Q", y="val_ppl:Q", text="num_layers:O"))
    plateaus = {depth: sum(plateau_epochs(group)) / study.num_seeds for depth, group in study.depths.items()}
    ends = min(plateaus, key=plateaus.__getitem__), max(plateaus, key=plateaus.__getitem__)
    title = f"Perplexity falls below 60 after {plateaus[ends[0]]:.0f} epochs at depth {ends[0]}, "
    title += f"{plateaus[ends[1]]:.0f} at depth {ends[1]}"
    subtitle = "mean over the models that still train"
    subtitle += (
        "; diamonds: an earlier run of the notebook with 6 layers" if isinstance(panels[0], alt.LayerChart) else ""
    )
    return Figure("learning_curves", title, subtitle, panels)


def _cost(study: Study) -> Figure | None:
    target = main_target(study)
    ways = {depth: effort(group, study, target) for depth, group in study.depths.items()}
    reached = {depth: way for depth, way in ways.items() if way.reached}
    if not reached:
        return None
    rows = [
        {"num_layers": depth, "seconds": way.seconds or 0.0, "reached": f"{way.reached} of {study.num_seeds}",
         "petaflop": way.petaflop, "epochs": way.epochs}
        for depth, way in ways.items()
    ]  # fmt: skip
    base = alt.Chart(pd.DataFrame(rows)).encode(
        x=alt.X("num_layers:O", title="number of layers", axis=alt.Axis(labelAngle=0)),
        y=alt.Y("seconds:Q", title="seconds of training a model"),
        tooltip=[alt.Tooltip("num_layers", title="layers"), "reached", alt.Tooltip("epochs", format=".0f"),
                 alt.Tooltip("seconds", format=".1f"), alt.Tooltip("petaflop", format=".2f", title="PFLOP")],
    )  # fmt: skip
    chart = base.mark_bar(color=COLOURS[0], size=46) + base.mark_text(dy=-10, fontSize=14).encode(text="reached")
    fewest = min(reached, key=lambda depth: (-reached[depth].reached, reached[depth].seconds or math.inf))
    title = f"Perplexity {target:.2f} is reached soonest at depth {fewest}"
    devices = "; on different devices" if len(study.devices) > 1 else f" on {study.devices[0]}"
    return Figure("cost_to_target", title, f"labels: how many models reach it{devices[:70]}", [chart])


def _grown(study: Study) -> Figure | None:
    """What further training changes of the seeds' perplexity, by epoch from the start on, a panel a depth."""
    panels = []
    for depth in sorted({group.num_layers for group in study.grown}):
        base = study.depths[depth]
        rows: list[dict[str, Any]] = []
        for group in (group for group in study.grown if group.num_layers == depth):
            own = base.values("val_ppl") if group.name != "scratch" else [base.mean("val_ppl")] * len(group.seeds)
            curves = [[value - before for value in curve["val_ppl"]]
                      for curve, before in zip(group.curves(), own, strict=True)]  # fmt: skip
            together = zip(*curves, strict=False)  # the epochs that all seeds trained: no step where one stops
            rows += [
                {"series": group.name, "epoch": epoch, "change": sum(values) / len(values)}
                for epoch, values in enumerate(together, start=1)
            ]
        table = pd.DataFrame(rows)
        highest = table.loc[table["series"] != "scratch", "change"].abs().max()
        chart = alt.Chart(table).mark_line(strokeWidth=2.2, clip=True).encode(
            x=alt.X("epoch:Q", title=f"epoch of further training, depth {depth}", axis=alt.Axis(tickMinStep=1)),
            y=alt.Y("change:Q", title="perplexity minus that of the base",
                    scale=alt.Scale(domainMax=1.15 * float(highest) if highest > 0 else 1.0, nice=False)),
            color=_series(PATTERNS, alt.Color, COLOURS),
            strokeDash=_series(PATTERNS, alt.StrokeDash, DASHES),
            tooltip=["series", "epoch", alt.Tooltip("change", format="+.3f")],
        )  # fmt: skip
        zero = alt.Chart(pd.DataFrame({"change": [0.0]})).mark_rule(strokeDash=[6, 3]).encode(y="change:Q")
        panels.append(zero + chart)
    gains = [f"{pattern} at depth {depth}" for (depth, pattern), one in growth(study).items() if one.gains]
    title = (
        f"Beats longer training: {', '.join(gains)}" if gains else "No grown context is shown to beat longer training"
    )
    return Figure("grown_contexts", title, "means over the seeds until the first stops", panels) if panels else None


def _importances(study: Study) -> Figure | None:
    shares = importances(study.part_two.tuning)
    if not shares:
        return None
    table = pd.DataFrame({"knob": [name.replace("_", " ") for name in shares], "share": list(shares.values())})
    chart = alt.Chart(table).mark_bar(color=COLOURS[0]).encode(
        x=alt.X("share:Q", title="share of what makes a trial good", axis=alt.Axis(format="%")),
        y=alt.Y("knob:N", title=None, sort="-x"),
        tooltip=["knob", alt.Tooltip("share", format=".1%")],
    )  # fmt: skip
    first = table.iloc[0]
    title = f"In the search {first['knob']} matters most: {first['share']:.0%}"
    return Figure("importances", title, "PED-ANOVA over all trials that were trained to their end", [chart])
