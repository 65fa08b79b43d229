"""The report, its appendix, README's section and the page: templates that a person wrote, filled with what was found.

What a written conclusion rests on is checked before it is rendered. Where these results do not show it, in a changed
experiment for example, tables and pictures stand without those words, and the text says why.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import NamedTuple

import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt

from newllm.analysis import claims, cost, fit, inference, published, tuning
from newllm.analysis.figures import Figure
from newllm.analysis.formats import FILTERS, settings
from newllm.analysis.inference import Answer, Difference, against, compare
from newllm.analysis.records import PATTERNS, Group
from newllm.analysis.study import Study, by_change, families, gaining, growth, spread
from newllm.measurement.intervals import Estimate, mean_interval

EMBED = """
for (const place of document.querySelectorAll("[data-chart]")) {
  const specification = JSON.parse(document.getElementById(place.dataset.chart).textContent);
  vegaEmbed(place, specification, {actions: false, renderer: "svg"});
}
"""
HOME = "../../metrics/"
"""The way from the page's folder to that of the report, for its links to other files."""
LATE = 30
"""So many epochs before the end tell whether a training was still gaining."""


class Facts(dict[str, bool]):
    """What written conclusions may rest on, and whether these results show it; KeyError for what is not known."""

    def hold(self, *names: str) -> bool:
        """Whether all of them are shown."""
        return not self.missing(*names)

    def missing(self, *names: str) -> list[str]:
        """Those that are not shown."""
        return [name for name in names if not self[name]]


class Effect(NamedTuple):
    """A changed recipe beside the study's own models of the same depth; each figure is a family over all recipes."""

    group: Group
    shown: str  # of validation perplexity, in words
    split: fit.Split | None  # what it does to training loss and gap, where measured
    excess: fit.Split | None  # what it has in excess of the study's best depth, where measured
    val_ppl: Difference  # minus that of the study's same depth
    test_ppl: Difference  # minus that of the study's same depth
    matters: Difference  # as val_ppl, against inference.MATTERS
    against_best: Difference  # validation perplexity minus that of the study's best depth


def effects_of(study: Study) -> list[Effect]:
    """Of the recipes whose depth the study has, by change and depth."""
    groups = [group for group in study.changed if group.num_layers in study.depths]
    own = {i: (group, study.depths[group.num_layers]) for i, group in enumerate(groups)}
    best = {i: (group, study.best) for i, group in enumerate(groups)}
    beside, parts, excesses = inference.compared(own, exact=False), fit.splits(own), fit.splits(best)
    families = (beside.zero, compare(own, "test_ppl"), beside.matters, compare(best))
    return [
        Effect(group, beside.shown(i), parts.get(i), excesses.get(i), *(tests[i] for tests in families))
        for i, group in enumerate(groups)
    ]


def facts(study: Study, effects: Sequence[Effect]) -> Facts:
    """Everything that the templates' conclusions rest on."""
    depths = study.depths
    residual = {one.group.num_layers: one for one in effects if settings(one.group.changes) == "residual connections"}
    eight = residual.get(8)
    helped = [one.val_ppl.below for depth, one in residual.items() if depth >= 4]
    won = [one.split and one.split.saving == "fit" and one.split.gap.above for d, one in residual.items() if d >= 5]
    excesses = [one and one.excess for one in claims.excesses(depths).values()]
    outcomes = [verdict.outcome.value for verdict in claims.judge(depths)]
    gains = fit.context_gains(depths.values())
    fresh = [group and group.norms.get("initial") for group in (depths.get(1), depths.get(8), eight and eight.group)]
    single, plain, kept = (max(norms) if norms else None for norms in fresh)
    used = gains.keys() == depths.keys() and all(one.above for one in gains.values())
    ways = {depth: cost.effort(group, study, cost.main_target(study)) for depth, group in depths.items()}
    first, *others = [(way.reached, way.seconds or float("inf")) for way in ways.values()]
    soonest = first[0] == study.num_seeds and all(first[1] < seconds for _, seconds in others)
    apart = spread(one.group for one in residual.values()), spread(depths[depth] for depth in residual)
    grown = [group for group in study.grown if group.name in PATTERNS[:2]]
    stopped = [group.seeds["stopped_early"].mean() for depth, group in depths.items() if depth >= 3]
    shown = {
        "text and training are those of the study": not (study.data_deviations or study.training_deviations),
        "depths 1 to 8 were trained": set(published.STUDY_DEPTHS) <= depths.keys(),
        "depth 3 is best": study.best.num_layers == 3,
        "every other depth is worse than the best": study.num_seeds > 1 and study.answer.set == [study.best.num_layers],
        "so it is on the test split": _all(one.above for one in study.answer.on_test.values()),
        "the vocabulary has 1,000 words": study.data.vocabulary_size == 1000,
        "the share of `<unk>` is known": bool(study.data.validation and study.data.validation.unk_share_pct),
        "claims 2, 3 and 5 hold": [outcomes[i] for i in (1, 2, 4)] == ["supported"] * 3,
        "claims 1, 4 and 6 do not hold": [outcomes[i] for i in (0, 3, 5)] == ["refuted"] * 3,
        "claim 7 is open": outcomes[6] == "undecided",
        "all deeper depths underfit": _all(kind == "underfitting" for kind in excesses),
        "gradients at the start vanish with depth": bool(single and plain is not None and plain < single / 100),
        "residual connections were tried at depths 4 to 8": {4, 5, 6, 7, 8} <= residual.keys(),
        "with residual connections depths differ less than a tenth as much": apart[0] < 0.1 * apart[1],
        "no residual network beats the best depth": _all(not one.against_best.below for one in residual.values()),
        "residual connections keep the gradients of one layer": bool(single and kept and kept >= single),
        "residual connections help from depth 4 on": _all(helped),
        "residual connections win fit and widen the gap from depth 5 on": _all(won),
        "growing gains nothing over longer training": bool(grown) and not gaining(study),
        "context beyond ten tokens is of use at every depth": used,
        "depth 1 reaches the target first": 1 in ways and len(study.devices) == 1 and soonest,
        "depths 6 to 8 never reach the target": all(ways[d].reached == 0 for d in (6, 7, 8) if d in ways),
        "most models from depth 3 on did not stop early": all(share < 0.5 for share in stopped),
        "the notebook’s 6 layers lie below our range, its 5 within": [given(study, d) for d in (5, 6)] == [0, -1],
    }
    return Facts(shown)


def _all(tests: Iterable[object]) -> bool:
    """Whether there are any, and all of them hold."""
    known = list(tests)
    return bool(known) and all(known)


def _place(depth: int, interval: Estimate) -> int:
    """Whether the notebook's value lies in an interval: 0; below it: -1; above: 1."""
    distance = published.POINTS[depth]["val_ppl"] - interval.mean
    return 0 if abs(distance) <= (interval.half_width or 0.0) else 1 if distance > 0 else -1


def given(study: Study, depth: int) -> int | None:
    """As `_place` in the range of one more seed, trained as far as the notebook's; None if unknown."""
    if depth not in study.depths or study.num_seeds == 1:
        return None
    lowest = study.depths[depth].lowest(published.POINTS[depth]["epochs"])
    return _place(depth, inference.prediction_interval(lowest))


def ways(study: Study, tuned: Answer | None) -> list[tuple[float, str, Group, cost.Effort]]:
    """Target, name, model and its effort: the soonest of each kind, and the best tuned depth."""
    kinds = {"notebook’s recipe, soonest": study.depths, "tuned, soonest": study.tuned}
    kinds |= {"tuned, best": {0: tuned.best} if tuned else {}, "LSTM, soonest": study.lstm}
    found: list[tuple[float, str, Group, cost.Effort]] = []
    for target in published.TARGETS if study.comparable else [cost.main_target(study)]:
        for name, groups in kinds.items():
            way = cost.soonest(groups.values(), study, target)
            if way and not any(way[0] is one and target == earlier for earlier, _, one, _ in found):
                found.append((target, name, *way))
    return found


class Continued(NamedTuple):
    """Depth 6 as the notebook's code trained it, in two parts, beside as many epochs at a stretch."""

    parts: Group
    stretch: Group
    difference: Difference  # of validation perplexity, the first minus the second: a test of its own
    more: Estimate  # where one more seed in two parts falls, in 95 % of cases
    place: int  # of the notebook's value: there (0), below (-1) or above (1)


def continued(study: Study) -> Continued | None:
    """None where these two recipes were not both trained with more than one seed."""
    found = {str(dict(group.changes)): group for group in study.changed if group.num_layers == 6}
    parts, stretch = (found.get(str(changes)) for changes in ({"continued": [50, 150]}, {"epochs": 200}))
    if not parts or not stretch or min(len(parts.seeds), len(stretch.seeds)) == 1:
        return None
    more = inference.prediction_interval(parts.values("val_ppl"))
    return Continued(parts, stretch, compare({6: (parts, stretch)})[6], more, _place(6, more))


class Exchanged(NamedTuple):
    """A depth trained with the recipe that the searches chose for others."""

    group: Group
    winners: list[int]  # the depths that it was chosen for
    val_ppl: Estimate  # mean over its seeds
    against_best: Difference  # validation perplexity minus that of the best tuned depth
    against_own: Difference | None  # minus that of its own depth, tuned; each is one family
    split: fit.Split | None  # minus the best tuned depth, where measured


def exchanged(study: Study, best: Group) -> list[Exchanged]:
    """The changed recipes that won elsewhere, in their order."""
    knobs = ("dropout", "residual", "initialisation")
    usual = {name: study.parameters[f"model.{name}"] for name in knobs}
    usual |= {"schedule": study.parameters["train.schedule"], "learning_rate_factor": 1.0}
    chosen = {depth: {**usual, "residual": False, **one.changes} for depth, one in study.tuned.items()}
    found = []
    for group in study.changed:
        winners = [depth for depth, recipe in chosen.items() if recipe == {**usual, **group.changes}]
        if winners and group.num_layers not in winners:
            found.append((group, winners))
    tests = compare({i: (group, best) for i, (group, _) in enumerate(found)})
    of_tuned = {i: group for i, (group, _) in enumerate(found) if group.num_layers in study.tuned}
    own = compare({i: (group, study.tuned[group.num_layers]) for i, group in of_tuned.items()})
    parts = fit.splits({i: (group, best) for i, (group, _) in enumerate(found)})
    return [
        Exchanged(group, winners, group.estimate("val_ppl"), tests[i], own.get(i), parts.get(i))
        for i, (group, winners) in enumerate(found)
    ]


def late_gain(group: Group) -> float | None:
    """By how much the lowest validation loss fell in the last epochs, in nats; mean over the seeds that had them."""
    losses = [list(rows["val_loss"]) for rows in group.curves() if len(rows) > LATE]
    return mean_interval([min(one[:-LATE]) - min(one) for one in losses]).mean if losses else None


def unfinished(groups: Iterable[Group]) -> int:
    """How many models trained to their last epoch, so that more might have made them better."""
    return sum(list(group.seeds["stopped_early"]).count(False) for group in groups)


def at_epoch(group: Group, epoch: int, name: str) -> list[float]:
    """A figure of every seed that trained in an epoch."""
    return [float(value) for value in group.curve.loc[group.curve["epoch"] == epoch, name]]


@cache
def _environment() -> Environment:
    """That of all templates, with what they may call."""
    found = Environment(
        loader=PackageLoader("newllm.analysis"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, autoescape=False,  # noqa: S701 (Markdown, which the page escapes where it becomes HTML)
    )  # fmt: skip
    found.filters.update(FILTERS)
    tools = (against, at_epoch, by_change, compare, families, given, growth, late_gain, mean_interval, unfinished)
    found.globals.update({tool.__name__: tool for tool in (*tools, spread)})
    found.globals.update(claims=claims, cost=cost, fit=fit, inference=inference, published=published)
    return found


def render(study: Study, figures: Sequence[Figure], templates: Sequence[str], pictures: str) -> list[str]:
    """The texts of some templates, by names without `.md.j2`; `pictures` is the way from a text to their folder."""
    effects = effects_of(study)
    tuned = inference.answer(study.tuned) if study.tuned else None
    beside_lstm = tuned and inference.compared({size: (one, tuned.best) for size, one in study.lstm.items()})
    both = study.depths.keys() & study.tuned
    budget, within = cost.within_operations(study.tuned, study)
    context = {
        "study": study,
        "continued": continued(study),
        "effects": effects,
        "exchanged": exchanged(study, tuned.best) if tuned else [],
        "facts": facts(study, effects),
        "verdicts": claims.judge(study.depths) if study.comparable else [],
        "tuned_verdicts": claims.judge(study.tuned) if study.comparable and tuned else [],
        "tuned": tuned,
        "beside_lstm": beside_lstm,
        "equal": inference.answer(study.equal, exact=False) if len(study.equal) > 1 else None,
        "operations": inference.answer(within) if len(within) > 1 else None,
        "budget": budget,
        "within": within,
        "importances": tuning.importances(study.tuning),
        "trials": [trial for search in study.tuning.values() for trial in search.trials],
        "gains": compare({depth: (study.depths[depth], study.tuned[depth]) for depth in both}),
        "ways": ways(study, tuned),
        "matters": inference.MATTERS,
        "figures": {figure.name: figure for figure in figures},
        "pictures": pictures,
    }
    texts = [_environment().get_template(f"{name}.md.j2").render(context) for name in templates]
    return [re.sub(r"\n{3,}", "\n\n", text) for text in texts]


def write_page(report: str, appendix: str, figures: Sequence[Figure]) -> str:
    """The report as one page that asks for nothing: pictures that answer the pointer, tables that sort."""
    by_name = {figure.name: figure for figure in figures}
    charts = {
        f"{figure.name}-{number}": json.dumps(specification).replace("<", "\\u003c")
        for figure in figures
        for number, specification in enumerate(figure.specifications())
    }
    scripts = vl_convert.javascript_bundle(EMBED).replace("</script", "<\\/script")
    texts = [_html(text, by_name) for text in (report, appendix)]
    page = _environment().get_template("page.html.j2").render(texts=texts, charts=charts, scripts=scripts)
    return page.rstrip("\n")


def _html(text: str, figures: Mapping[str, Figure]) -> str:
    html = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)

    def heading(match: re.Match[str]) -> str:
        slug = re.sub(r"[^\w -]", "", re.sub(r"<[^>]+>|&\w+;", "", match[2]).lower()).strip().replace(" ", "-")
        return f'<h{match[1]} id="{slug}">{match[2]}</h{match[1]}>'

    def picture(match: re.Match[str]) -> str:
        figure = figures[match[1]]
        places = "".join(
            f'<div class="chart" data-chart="{figure.name}-{number}"></div>' for number in range(len(figure.panels))
        )
        many = ' class="many"' if len(figure.panels) > 2 else ""
        return f"<figure{many}>{places}<figcaption><b>{match[2]}</b> {figure.subtitle}</figcaption></figure>"

    def link(match: re.Match[str]) -> str:
        inside = re.fullmatch(r"(?:appendix|report)\.md(#.*)?", match[1])
        if inside:
            return f'href="{inside[1] or "#"}"'
        return match[0] if ":" in match[1] else f'href="{HOME}{match[1]}"'

    html = re.sub(r"<h([1-6])>(.*?)</h\1>", heading, html)
    html = re.sub(r'<p><img src="[^"]*?([\w-]+)\.png" alt="([^"]*)" ?/?></p>', picture, html)
    html = re.sub(r'href="([^"]*)"', link, html)
    return re.sub(r"<table>.*?</table>", lambda match: f'<div class="table">{match[0]}</div>', html, flags=re.DOTALL)
