"""The pictures: drawn once, as PNG for the report and to answer the pointer on its page.

Each is titled by what it shows, in words that hold whatever the numbers are. Colours are those of Okabe and Ito, or
viridis by depth, always with a second cue: position, shape, dash or label.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import altair as alt
import pandas as pd
import vl_convert

from newllm.analysis.fit import GAP, TRAIN_LOSS
from newllm.analysis.formats import signed, spans
from newllm.analysis.inference import MATTERS, answer, best_of
from newllm.analysis.published import POINTS, TRAJECTORY
from newllm.analysis.records import PATTERNS, PLATEAU_PPL, Group
from newllm.analysis.schemas import Search
from newllm.analysis.study import Study, families, gaining, learning_curves, spread
from newllm.analysis.tuning import importances

WIDTH, HEIGHT, PANELS_APART = 760, 380, 60
SHADES = 2.0  # perplexity from the lowest that colours tell apart
SCALE = 1.6  # pixels of the file a unit: some 1,300 wide
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"]
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right"]
DASHES = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [1, 2], [4, 4], [10, 2]]
NOTEBOOK = ("notebook, complete run", "notebook, stopped by hand")
TITLES = {"num_layers": "layers", "num_seeds": "models that still train"}
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
    """A picture of panels, `columns` of which stand side by side in the file; on the page as many as have room."""

    name: str
    title: str
    subtitle: str
    panels: Sequence[Any]
    height: int = HEIGHT
    columns: int = 2

    def png(self) -> bytes:
        """The picture as a file; the same bytes for the same numbers."""
        columns = min(self.columns, len(self.panels))
        apart = PANELS_APART if columns <= 2 else PANELS_APART // 4
        width = (WIDTH - apart * (columns - 1)) / columns
        panels = [panel.properties(width=width, height=self.height) for panel in self.panels]
        chart = alt.concat(*panels, columns=columns, spacing=apart).resolve_legend(color="shared", shape="shared")
        title = {"text": self.title, "subtitle": self.subtitle}
        specification = {**_plain(chart), "title": title, "config": STYLE, "padding": 14}
        return bytes(vl_convert.vegalite_to_png(specification, scale=SCALE))

    def specifications(self) -> list[dict[str, Any]]:
        """The panels for the page, each as wide as it may be; names below each other, for a narrow screen."""
        style = {**STYLE, "legend": {**STYLE["legend"], "columns": 1}}
        charts = [_plain(panel.properties(width="container", height=self.height)) for panel in self.panels]
        return [{**chart, "config": style} for chart in charts]


def _plain(chart: Any) -> dict[str, Any]:
    """The specification, whatever theme a user has chosen."""
    with alt.theme.enable("none"):
        return dict(chart.to_dict())


def draw_all(study: Study) -> list[Figure]:
    """Those pictures for which something was measured."""
    drawings: Sequence[Callable[[Study], Figure | None]] = [
        _perplexity_by_depth, _tuned, _changed, _fit, _learning_curves, _grown, _importances, _searches,
    ]  # fmt: skip
    return [figure for draw in drawings if (figure := draw(study))]


def _chart(rows: Any, **channels: Any) -> Any:
    return alt.Chart(pd.DataFrame(rows)).encode(**channels)


def _depths() -> alt.X:
    return alt.X("num_layers:Q", title="number of layers", axis=alt.Axis(tickMinStep=1, format="d", grid=False),
                 scale=alt.Scale(zero=False, nice=False, padding=24))  # fmt: skip


def _series(names: Sequence[str], channel: Any, values: Sequence[Any]) -> Any:
    used = list(islice(cycle(values), len(names)))
    return channel("series:N", title=None, scale=alt.Scale(domain=list(names), range=used))


def _tips(**formats: str | None) -> list[alt.Tooltip]:
    """What answers the pointer: column and format of each."""
    formatted = {name: format_ or alt.Undefined for name, format_ in formats.items()}
    return [alt.Tooltip(name, format=one, title=TITLES.get(name, alt.Undefined)) for name, one in formatted.items()]


def _perplexities(lowest: float, highest: float) -> alt.Scale:
    """Without zero, logarithmic where they differ by more than five times."""
    return alt.Scale(zero=False, nice=False, padding=12, type="log" if highest > 5 * lowest else "linear")


def _points(base: Any, names: Sequence[str], **marks: Any) -> Any:
    style = {"size": 110, "filled": True, "opacity": 1, **marks}
    return base.mark_point(**style).encode(shape=_series(names, alt.Shape, SHAPES))


def _means(lines: Mapping[str, Mapping[int, Group]], published: bool = False, connected: bool = False) -> Any:
    """Means by depth with their intervals, in colours and shapes by series; hollow marks for published points."""
    names = [*lines, *(NOTEBOOK if published else ())]
    ours = [(series, *pair) for series, groups in lines.items() for pair in groups.items()]
    means = [(series, depth, group.estimate("val_ppl")) for series, depth, group in ours]
    rows = [(series, depth, one.mean, one.low, one.high) for series, depth, one in means]
    points = POINTS if published else {}
    rows += [(NOTEBOOK[not one["complete"]], depth, one["val_ppl"], None, None) for depth, one in points.items()]
    table = pd.DataFrame(rows, columns=["series", "num_layers", "val_ppl", "low", "high"])
    drawn = table[["val_ppl", "low", "high"]].astype(float)
    base = _chart(
        table,
        x=_depths(),
        y=alt.Y("val_ppl:Q", title="validation perplexity", scale=_perplexities(drawn.min().min(), drawn.max().max())),
        color=_series(names, alt.Color, COLOURS),
        tooltip=_tips(series=None, num_layers=None, val_ppl=".2f", low=".2f", high=".2f"),
    )
    theirs = table["series"].isin(NOTEBOOK)
    whiskers = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2.5).encode(y="low:Q", y2="high:Q")
    marks = [base.mark_line(strokeWidth=1.5)] if connected else []
    marks += [whiskers] if table["low"].notna().any() else []
    marks += [_points(base.properties(data=table[~theirs]), names)]
    if published:
        marks += [_points(base.properties(data=table[theirs]), names, size=190, filled=False, strokeWidth=2.5)]
    return alt.layer(*marks)


def _seeds(groups: Mapping[int, Group]) -> Any:
    """Every single model at its depth."""
    seeds = pd.concat([group.seeds.assign(num_layers=depth) for depth, group in groups.items()], ignore_index=True)
    columns = ["num_layers", "val_ppl", "seed"]
    return _chart(seeds[columns], x=_depths(), y="val_ppl:Q", tooltip=_tips(seed=None, val_ppl=".3f"))


def _so_far(study: Study) -> str:
    return "" if study.depths.keys() <= study.tuned.keys() else f" (of {', '.join(map(str, study.tuned))})"


def _ours(study: Study) -> str:
    return "with this recipe" if study.data_deviations or study.training_deviations else "as the notebook trained it"


def _perplexity_by_depth(study: Study) -> Figure:
    ours = _ours(study)
    lines = {f"{ours}, mean of {study.num_seeds}": study.depths}
    title = f"Depth {study.best.num_layers} has the lowest perplexity {ours}"
    if tuned := study.tuned:
        lines[f"tuned, mean of {len(next(iter(tuned.values())).seeds)}"] = tuned
    if len(tuned) > 1:
        title = f"The lowest perplexity is at depth {study.best.num_layers} {ours}, "
        title += f"at {best_of(tuned).num_layers} when tuned{_so_far(study)}"
    subtitle = "large marks: means with 95 % intervals; small dots: single models"
    subtitle += "; the notebook trained one of each, 6 layers for 200 epochs" if study.comparable else ""
    dots = _seeds(study.depths).mark_circle(size=40, opacity=0.35, color=COLOURS[0])
    return Figure("perplexity_by_depth", title, subtitle, [dots + _means(lines, published=study.comparable)])


def _tuned(study: Study) -> Figure | None:
    """The tuned depths closer, a dot a model; filled marks for those of the rule's set."""
    tuned = study.tuned
    if len(tuned) < 2:
        return None
    best = answer(tuned).set
    lines = {"best, or not shown to be worse": {depth: tuned[depth] for depth in tuned if depth in best}}
    if worse := {depth: tuned[depth] for depth in tuned if depth not in best}:
        lines["shown to be worse"] = worse
    dots = _seeds(tuned).mark_circle(size=36, opacity=0.4, color="#666666", xOffset=16)
    found = f"depths {', '.join(map(str, best))} are best, or not shown to be worse"
    title = f"Tuned, {found if len(best) > 1 else f'depth {best[0]} is best'}{_so_far(study)}"
    limit = _chart({"val_ppl": [best_of(tuned).mean("val_ppl") + MATTERS]}, y="val_ppl:Q").mark_rule(strokeDash=[6, 3])
    subtitle = f"means with 95 % intervals, and beside them single models; dashed: {MATTERS:g} above the lowest mean"
    return Figure("tuned", title, subtitle, [limit + dots + _means(lines)])


def _changed(study: Study) -> Figure | None:
    """The families of recipes; marks stand at their depth, so that what is equal looks equal."""
    if not study.changed:
        return None
    changes = {name[:60]: groups for name, groups in families(study.changed).items()}
    own = {name: spread(study.depths[d] for d in groups if d in study.depths) for name, groups in changes.items()}
    most = max(changes, key=lambda name: own[name] - spread(changes[name].values()))
    apart = f"{spread(changes[most].values()):.2f} apart, without {own[most]:.2f}"
    title = f"With {most} depths {spans(changes[most])} are {apart}"
    panel = _means({_ours(study): study.depths, **changes}, connected=True)
    return Figure("changed_recipes", title, "means with 95 % intervals", [panel])


def _fit(study: Study) -> Figure | None:
    measured = {depth: group for depth, group in study.depths.items() if group.has(TRAIN_LOSS)}
    if len(measured) < 2:
        return None
    names = {"validation loss": "val_loss", "training loss without dropout": TRAIN_LOSS}
    pairs = [(depth, group, series) for depth, group in measured.items() for series in names]
    base = _chart(
        [{"series": series, "num_layers": depth, "loss": group.mean(names[series])} for depth, group, series in pairs],
        x=_depths(),
        y=alt.Y("loss:Q", title="loss in nats", scale=alt.Scale(zero=False, padding=12)),
        color=_series(list(names), alt.Color, COLOURS),
        tooltip=_tips(series=None, num_layers=None, loss=".3f"),
    )
    first, last = min(measured), max(measured)
    best = study.best.num_layers
    start = best if best in measured and best < last else first
    loss, gap = (signed(measured[last].mean(name) - measured[start].mean(name)) for name in (TRAIN_LOSS, GAP))
    title = f"From depth {start} to {last}: training loss {loss}, gap to validation {gap}"
    subtitle = f"{_ours(study)}: means over seeds, at the best epoch; the gap is the distance of the lines"
    return Figure("fit", title, subtitle, [base.mark_line(strokeWidth=1.5) + _points(base, list(names))])


def _learning_curves(study: Study) -> Figure:
    curves = learning_curves(study.depths.values())
    late = f"datum.epoch > {2 * int(curves['epoch'].max()) // 3}"
    x = alt.X("epoch:Q", axis=alt.Axis(tickMinStep=1, format="d"), scale=alt.Scale(nice=False))
    legend = alt.Legend(columns=4, symbolType="stroke")
    base = _chart(
        curves,
        x=x,
        y=alt.Y("val_ppl:Q", title="validation perplexity (logarithmic)",
                scale=alt.Scale(type="log", nice=False, padding=8)),
        color=alt.Color("num_layers:O", title="layers", scale=alt.Scale(scheme="viridis"), legend=legend),
        tooltip=_tips(num_layers=None, epoch=None, val_ppl=".2f", num_seeds=None),
    ).mark_line(strokeWidth=1.8)  # fmt: skip
    panels: list[Any] = [base]
    subtitle = "mean over the models that still train"
    if study.comparable and 6 in study.depths:
        published = [{"epoch": epoch, "val_ppl": value} for epoch, value in TRAJECTORY.items()]
        marks = _chart(published, x="epoch:Q", y="val_ppl:Q", tooltip=["epoch", "val_ppl"])
        panels = [base + marks.mark_point(shape="diamond", color="black", size=80, strokeWidth=2)]
        subtitle += "; diamonds: an earlier run of the notebook with 6 layers"
    if curves["epoch"].max() >= 20:
        closer = alt.Y("val_ppl:Q", title="validation perplexity, the last third", scale=_perplexities(1.0, 1.0))
        ends = _chart(curves.groupby("num_layers", as_index=False).last(), x="epoch:Q", y="val_ppl:Q",
                      text="num_layers:O").mark_text(dx=9, fontSize=14)  # fmt: skip
        lines = base.encode(x=x.axis(tickCount=4), y=closer)
        panels.append(lines.transform_filter(late) + ends.transform_filter(late))
    seeds = pd.concat([group.seeds for group in study.depths.values()])
    name, falls, unit = "val_ppl", "to", "{:.2f}"
    if seeds["val_ppl"].max() < PLATEAU_PPL and seeds["plateau_epochs"].any():  # there was one, and all have left it
        name, falls, unit = "plateau_epochs", f"below {PLATEAU_PPL:.0f} after", "{:.0f} epochs"
    means = {depth: group.mean(name) for depth, group in study.depths.items()}
    first, last = (end(means, key=means.__getitem__) for end in (min, max))
    shown = [f"{unit.format(means[depth])} at depth {depth}" for depth in dict.fromkeys((first, last))]
    return Figure("learning_curves", f"Perplexity falls {falls} {', '.join(shown)}", subtitle, panels)


def _grown(study: Study) -> Figure | None:
    """What further training changes of the seeds' perplexity, by epoch from the start on, a panel a depth."""
    further = [group for group in study.grown if group.name != "scratch"]  # which did not begin at the base
    if not further:
        return None
    panels = []
    for depth in sorted({group.num_layers for group in further}):
        tables, own = [], study.depths[depth].seeds.set_index("seed")["val_ppl"]
        for group in (group for group in further if group.num_layers == depth):
            rows = group.curve.assign(change=group.curve["val_ppl"] - group.curve["seed"].map(own), series=group.name)
            together = rows[rows["epoch"] <= group.seeds["epochs_run"].min()]  # no step where a seed stops
            tables.append(together.groupby(["series", "epoch"], as_index=False)["change"].mean())
        table = pd.concat(tables, ignore_index=True)
        chart = _chart(
            table,
            x=alt.X("epoch:Q", title=f"epoch of further training, depth {depth}", axis=alt.Axis(tickMinStep=1)),
            y=alt.Y("change:Q", title="perplexity minus that of the base"),
            color=_series(PATTERNS[:3], alt.Color, COLOURS),
            strokeDash=_series(PATTERNS[:3], alt.StrokeDash, DASHES),
            tooltip=_tips(series=None, epoch=None, change="+.3f"),
        )
        zero = _chart({"change": [0.0]}, y="change:Q").mark_rule(strokeDash=[6, 3])
        panels.append(zero + chart.mark_line(strokeWidth=2.2))
    gains = [f"{pattern} at depth {depth}" for depth, pattern in gaining(study)]
    none = "No grown context is shown to beat longer training"
    title = f"Beats longer training: {', '.join(gains)}" if gains else none
    subtitle = "means over the seeds until the first stops" + ("; the panels’ scales differ" if panels[1:] else "")
    return Figure("grown_contexts", title, subtitle, panels)


def _importances(study: Study) -> Figure | None:
    shares = importances(study.tuning)
    if not shares:
        return None
    bars = _chart(
        {"knob": list(shares), "share": list(shares.values())},
        x=alt.X("share:Q", title=None, axis=None),
        y=alt.Y("knob:N", title=None, sort=list(shares), axis=alt.Axis(ticks=False, domain=False, labelLimit=240)),
        tooltip=_tips(knob=None, share=".1%"),
    )
    labels = bars.mark_text(align="left", dx=6, fontSize=14).encode(text=alt.Text("share:Q", format=".0%"))
    first = next(iter(shares))
    title = f"What sets the best tenth of the trials apart: {first}, {shares[first]:.0%}"
    subtitle = "shares by PED-ANOVA over all trials of all depths; they are no shares of variance"
    return Figure("importances", title, subtitle, [bars.mark_bar(color=COLOURS[0]) + labels], 36 * len(shares))


def _searches(study: Study) -> Figure | None:
    """A map a depth: learning rate and dropout, with the lowest perplexity of any trial there that was not pruned."""
    searches = study.tuning
    if not searches:
        return None
    cells = pd.concat([_cells(depth, search) for depth, search in searches.items()], ignore_index=True)
    rates, dropouts = (sorted(cells[name].unique()) for name in ("rate", "dropout"))
    lowest = float(cells["val_ppl"].min())
    panels = []
    for index, depth in enumerate(searches):
        own = cells[cells["depth"] == depth]
        base = _chart(
            own,
            x=alt.X("rate:O", title="learning rate ×", scale=alt.Scale(domain=rates), axis=alt.Axis(labelAngle=0)),
            y=alt.Y("dropout:O", title=None if index % 4 else "dropout", scale=alt.Scale(domain=dropouts[::-1]),
                    axis=alt.Axis(format=".1f")),
            tooltip=_tips(rate=None, dropout=None, val_ppl=".2f", tried=None, stopped=None),
        )  # fmt: skip
        scale = alt.Scale(scheme="viridis", reverse=True, domain=[lowest, lowest + SHADES], clamp=True)
        stopped = base.transform_filter("!isValid(datum.val_ppl)").mark_rect(color="#e4e4e4")
        tiles = base.mark_rect().encode(color=alt.Color("val_ppl:Q", scale=scale, legend=None))
        dark = f"datum.val_ppl > {lowest + SHADES / 2}"
        colour = alt.condition(dark, alt.value("white"), alt.value("black"))
        texts = base.mark_text(fontSize=11).encode(text="label:N", color=colour)
        chosen = base.transform_filter("datum.chosen").mark_rect(filled=False, stroke=COLOURS[1], strokeWidth=3.5)
        heading = alt.Title(f"{depth} layers" if depth > 1 else "1 layer", fontSize=14, offset=4)
        panels.append((stopped + tiles + texts + chosen).properties(title=heading))
    winners = pd.DataFrame([one.chosen.recipe.model_dump() for one in searches.values()])
    ends = (winners[["learning_rate_factor", "dropout"]].agg(["min", "max"])).T.to_numpy()
    rate, dropout = (f"{low:g}" if low == high else f"{low:g} to {high:g}" for low, high in ends)
    title = f"The best recipes have learning rate × {rate} and dropout {dropout}"
    subtitle = "lowest validation perplexity of the trials there; framed: the winner by further seeds; "
    subtitle += "×: all left early; white: not tried"
    return Figure("searches", title, subtitle, panels, 165, 4)


def _cells(depth: int, search: Search) -> pd.DataFrame:
    """Where trials were: how many, and the lowest perplexity of those that were neither pruned nor diverged."""
    trials = pd.json_normalize([trial.model_dump() for trial in search.trials]).assign(depth=float(depth))
    trials = trials.rename(columns={"recipe.learning_rate_factor": "rate", "recipe.dropout": "dropout"})
    trials["val_ppl"] = trials["val_ppl"].astype(float).mask(trials["pruned"])
    grouped = trials.groupby(["depth", "rate", "dropout"])["val_ppl"]
    cells = grouped.agg(val_ppl="min", tried="size", ended="count").reset_index()
    chosen = search.chosen.recipe
    return cells.assign(
        stopped=cells["tried"] - cells["ended"],
        chosen=(cells["rate"] == chosen.learning_rate_factor) & (cells["dropout"] == chosen.dropout),
        label=[f"{value:.2f}" if value > 0 else "×" for value in cells["val_ppl"]],
    )
