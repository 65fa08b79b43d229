"""The report, its appendix and README's section: templates that a person wrote, filled with what was found.

What a written conclusion rests on is checked before it is rendered. Where these results do not show it, in a changed
experiment for example, tables and pictures stand without those words, and the text says why.
"""

import math
import re
from collections.abc import Mapping, Sequence
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from newllm.analysis import claims, cost, fit, inference, published, tuning
from newllm.analysis.figures import Figure
from newllm.analysis.formats import FILTERS, settings
from newllm.analysis.inference import Difference, family
from newllm.analysis.records import PATTERNS, Group
from newllm.analysis.study import Study, against, growth, plateau_epochs
from newllm.measurement.intervals import Estimate, mean_interval

LATE = 30
"""So many epochs before the end tell whether a training was still gaining."""
RESIDUAL = "residual connections"


class Facts:
    """What written conclusions may rest on: a name each, and whether these results show it."""

    def __init__(self, shown: Mapping[str, bool]) -> None:
        self.shown = shown

    def hold(self, *names: str) -> bool:
        """Whether all of them are shown; KeyError for one that is not known."""
        return not self.missing(*names)

    def missing(self, *names: str) -> list[str]:
        """Those that are not shown."""
        return [name for name in names if not self.shown[name]]


class Effects:
    """The changed recipes that can be compared with the study's own models of the same depth.

    Attributes:
        groups: the changed ones, by change and depth.
        val_ppl: validation perplexity minus that of the study's same depth: one family.
        test_ppl: the same of the test split, each interval alone.
        against_best: validation perplexity minus that of the study's best depth: one family.
        splits: what they do to training loss and gap; None where not measured.
        excesses: what they have in excess of the study's best depth; None where not measured.
    """

    def __init__(self, study: Study) -> None:
        self.groups = [group for group in study.changed if group.num_layers in study.depths]
        own = [study.depths[group.num_layers] for group in self.groups]
        pairs = list(zip(self.groups, own, strict=True))
        self.val_ppl = family([(one.values("val_ppl"), other.values("val_ppl")) for one, other in pairs])
        self.test_ppl = [family([(one.values("test_ppl"), other.values("test_ppl"))])[0] for one, other in pairs]
        best = study.best.values("val_ppl")
        self.against_best = family([(group.values("val_ppl"), best) for group in self.groups])
        self.splits = fit.splits(pairs)
        self.excesses = fit.splits([(group, study.best) for group in self.groups])

    def of(self, name: str, least: int = 0) -> dict[int, int]:
        """Depth → index of a change by its name in words, from a depth on."""
        return {
            group.num_layers: index
            for index, group in enumerate(self.groups)
            if settings(group.changes) == name and group.num_layers >= least
        }

    def by_change(self) -> dict[str, dict[int, Group]]:
        """Change in words → depth → group."""
        names = dict.fromkeys(settings(group.changes) for group in self.groups)
        return {name: {depth: self.groups[index] for depth, index in self.of(name).items()} for name in names}

    def spreads(self, study: Study, name: str) -> tuple[float, float]:
        """How far apart the depths of a change are in mean validation perplexity, and the same depths without it."""
        changed = [self.groups[index].mean("val_ppl") for index in self.of(name).values()] or [0.0]
        plain = [study.depths[depth].mean("val_ppl") for depth in self.of(name)] or [0.0]
        return max(changed) - min(changed), max(plain) - min(plain)


def facts(study: Study, effects: Effects) -> Facts:
    """Everything that the templates' conclusions rest on."""
    residual, deep = effects.of(RESIDUAL), effects.of(RESIDUAL, 5)
    warm = [index for index, group in enumerate(effects.groups) if "warmup_epochs" in settings_of(group)]
    test = against(study.depths, study.best, "test_ppl")
    outcomes = [verdict.outcome.value for verdict in claims.judge(study.depths)]
    deeper = claims.worse_and_deeper(study.depths)
    excesses = fit.splits([(study.depths[depth], study.best) for depth in deeper])
    gains = fit.context_gains(list(study.depths.values()))
    ways = {depth: cost.effort(group, study, cost.main_target(study)) for depth, group in study.depths.items()}
    apart = effects.spreads(study, RESIDUAL)
    grown = [one for (_, name), one in growth(study).items() if name in PATTERNS[:2]]
    return Facts(
        {
            "text and training are those of the study": not (study.data_deviations or study.training_deviations),
            "depths 1 to 8 were trained": set(published.STUDY_DEPTHS) <= set(study.depths),
            "all depths were tuned": not study.part_two.tuned
            or set(published.STUDY_DEPTHS) <= set(study.part_two.tuned),
            "depth 3 is best": study.best.num_layers == 3,
            "every other depth is worse than the best": study.num_seeds > 1 and study.close == [study.best.num_layers],
            "so it is on the test split": bool(test) and all(one.above for one in test.values()),
            "the vocabulary has 1,000 words": study.data.vocabulary_size == 1000,
            "the share of `<unk>` is known": bool(study.data.validation and study.data.validation.unk_share_pct),
            "claims 2, 3 and 5 hold": [outcomes[i] for i in (1, 2, 4)] == ["supported"] * 3,
            "claims 1, 4 and 6 do not hold": [outcomes[i] for i in (0, 3, 5)] == ["refuted"] * 3,
            "claim 7 is open": outcomes[6] == "undecided",
            "all deeper depths underfit": bool(deeper)
            and all(one and one.excess == "underfitting" for one in excesses),
            "gradients at the start were measured at depths 1 and 8": all(
                depth in study.depths and bool(study.depths[depth].norms) for depth in (1, 8)
            ),
            "residual connections were tried at depths 2 to 8": list(residual) == [2, 3, 4, 5, 6, 7, 8],
            "with residual connections depths differ less than a tenth as much": apart[0] < 0.1 * apart[1],
            "no residual network beats the best depth": bool(residual)
            and not any(effects.against_best[index].below for index in residual.values()),
            "residual connections help from depth 4 on": bool(deep)
            and all(effects.val_ppl[index].below for index in effects.of(RESIDUAL, 4).values()),
            "residual connections win fit from depth 5 on": bool(deep)
            and all((one := effects.splits[index]) and one.saving == "fit" for index in deep.values()),
            "warm-up changes nothing that is shown": bool(warm)
            and not any(effects.val_ppl[index].above or effects.val_ppl[index].below for index in warm),
            "growing gains nothing over longer training": bool(grown) and not any(one.gains for one in grown),
            "context beyond ten tokens is of use at every depth": gains.keys() == study.depths.keys()
            and all(one.above for one in gains.values()),
            "depth 1 reaches the target first": all(
                ways[1].reached == study.num_seeds and (ways[1].seconds or 0) < (way.seconds or float("inf"))
                for depth, way in ways.items()
                if depth != 1
            )
            if 1 in ways and len(study.devices) == 1
            else False,
            "depths 6 to 8 never reach the target": all(ways[d].reached == 0 for d in (6, 7, 8) if d in ways),
            "most models from depth 3 on did not stop early": all(
                2 * group.seeds["stopped_early"].sum() < study.num_seeds
                for depth, group in study.depths.items()
                if depth >= 3
            ),
            "the notebook’s 6 layers lie below our range, its 5 within": [given(study, d) for d in (5, 6)] == [0, -1],
        }
    )


def settings_of(group: Group) -> set[str]:
    """The names of what is changed, without their sections."""
    return {name.rpartition(".")[2] for name in group.changes}


def best_by(group: Group, last: int) -> Estimate:
    """Where one more seed's lowest validation perplexity of the epochs up to `last` would be, in 95 % of cases."""
    lowest = [float(rows.loc[rows["epoch"] <= last, "val_ppl"].min()) for rows in group.curves()]
    return inference.prediction_interval(lowest)


def given(study: Study, depth: int) -> int | None:
    """Whether the notebook's value lies in the range of one more seed: 0; below it: -1; above: 1; None if unknown."""
    point = next(point for point in published.POINTS if point.num_layers == depth)
    if depth not in study.depths or study.num_seeds == 1:
        return None
    interval = best_by(study.depths[depth], point.epochs)
    distance = point.val_ppl - interval.mean
    return 0 if abs(distance) <= (interval.half_width or 0.0) else 1 if distance > 0 else -1


def late_gain(group: Group) -> float | None:
    """By how much the lowest validation loss fell in the last epochs, in nats; mean over the seeds that had them."""
    losses = [list(rows["val_loss"]) for rows in group.curves() if len(rows) > LATE]
    return mean_interval([min(one[:-LATE]) - min(one) for one in losses]).mean if losses else None


def at_epoch(group: Group, epoch: int, name: str) -> list[float]:
    """A figure of every seed that trained in an epoch."""
    return [float(value) for value in group.curve.loc[group.curve["epoch"] == epoch, name]]


def position_ppl(group: Group) -> dict[int, float]:
    """Number of tokens read → validation perplexity of the next in full windows, of the mean loss over seeds."""
    seeds = group.diagnosis.seeds if group.diagnosis else []
    rows = fit.by_position([seed.val_loss_by_position_full_windows for seed in seeds])
    return {read: math.exp(mean) for read, mean, _, _ in rows}


def highest(tests: Sequence[Difference]) -> list[float | None]:
    """Their p-values."""
    return [test.adjusted_p for test in tests]


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("newllm.analysis"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, autoescape=False,  # noqa: S701 (Markdown; the page escapes what it is made of)
    )  # fmt: skip
    environment.filters.update(FILTERS)
    tools = (against, at_epoch, best_by, family, given, growth, highest, late_gain, mean_interval, plateau_epochs,
             position_ppl)  # fmt: skip
    environment.globals.update({tool.__name__: tool for tool in tools})
    environment.globals.update(claims=claims, cost=cost, fit=fit, inference=inference, published=published)
    return environment


def render(study: Study, figures: Sequence[Figure], templates: Sequence[str], pictures: str) -> list[str]:
    """The texts of some templates.

    Args:
        study: what they are about.
        figures: the pictures that there are.
        templates: names without `.md.j2`.
        pictures: the way from the text's folder to that of the pictures.
    """
    environment = _environment()
    effects = Effects(study)
    two = study.part_two
    deeper = claims.worse_and_deeper(study.depths)
    context = {
        "study": study,
        "two": two,
        "effects": effects,
        "facts": facts(study, effects),
        "verdicts": claims.judge(study.depths) if study.comparable else [],
        "tuned_verdicts": claims.judge(two.tuned) if study.comparable and two.tuned else [],
        "tuned": tuning.answer(two.tuned) if two.tuned else None,
        "beside_lstm": tuning.both_tests(two.lstm, tuning.answer(two.tuned).best) if two.tuned else None,
        "equal": tuning.answer(two.equal) if two.equal else None,
        "importances": tuning.importances(two.tuning),
        "excesses": fit.splits([(study.depths[depth], study.best) for depth in deeper]),
        "context_gains": fit.context_gains(list(study.depths.values())),
        "words_only": {depth: one for depth, one in study.depths.items() if one.diagnosis},
        "matters": tuning.MATTERS,
        "figures": {figure.name: figure for figure in figures},
        "pictures": pictures,
    }
    texts = [environment.get_template(f"{name}.md.j2").render(context) for name in templates]
    return [re.sub(r"\n{3,}", "\n\n", text) for text in texts]
