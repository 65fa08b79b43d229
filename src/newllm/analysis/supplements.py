"""What the report shows besides the depths' results: diagnoses, grown contexts, ablations, sizes of the data."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from newllm.analysis.ablation import Ablation, load_ablations
from newllm.analysis.cost import TrainingData, load_training_data
from newllm.analysis.diagnosis import Diagnosis, load_diagnoses
from newllm.analysis.expansion import Grown, load_grown
from newllm.analysis.overfitting import Diagnostics
from newllm.analysis.results import DepthResult


@dataclass(frozen=True)
class Supplements:
    """All of it may be missing, in part or altogether."""

    diagnoses: tuple[Diagnosis, ...] = ()
    grown: tuple[Grown, ...] = ()
    ablations: tuple[Ablation, ...] = ()
    training_data: TrainingData | None = None

    @property
    def overfitting(self) -> list[Diagnostics]:
        """What the claim about overfitting rests on, of the depths that were diagnosed."""
        return [diagnosis.overfitting for diagnosis in self.diagnoses]

    def diagnosis(self, num_layers: int) -> Diagnosis | None:
        """Of one depth, if it was diagnosed."""
        return next((one for one in self.diagnoses if one.num_layers == num_layers), None)


def load_supplements(results: Sequence[DepthResult], root: Path, window: int) -> Supplements:
    """Reads what there is below `root`, the project's folder.

    Args:
        results: the depths of the report.
        root: where metrics/, plots/ and ablations/ lie.
        window: tokens of a window.

    Raises:
        UserError: a file is damaged, or belongs to other results than these.
    """
    return Supplements(
        tuple(load_diagnoses(results, root / "metrics/diagnostics")),
        tuple(load_grown(results, root / "metrics/expand", root / "plots/expand")),
        tuple(load_ablations(root / "ablations/results.json")),
        load_training_data(root / "metrics/data.json", window),
    )
