"""What the lab notebook of 2025-11-18 published, and the values that the study prescribes; data only.

Source of every number: the notebook "New-LLM: number of layers on WikiText-2" of 2025-11-18 (FP16 on one NVIDIA L4),
as transcribed in the study's specification. Perplexities and accuracies are of the validation split.
"""

from dataclasses import dataclass

SOURCE = "lab notebook of 2025-11-18, FP16 on an NVIDIA L4"


STUDY_DEPTHS = (1, 2, 3, 4, 5, 6, 7, 8)
STUDY_NUM_SEEDS = 5
STUDY_EPOCHS = 150


@dataclass(frozen=True)
class PublishedPoint:
    """One depth as the notebook reports it.

    Attributes:
        num_layers: depth.
        val_ppl: best validation perplexity.
        val_accuracy: best validation accuracy, a fraction.
        num_params: parameters as printed there; rounded, and not always equal to the definition's count.
        epochs: how many it was trained.
        state: the notebook's remark, in words.
    """

    num_layers: int
    val_ppl: float
    val_accuracy: float
    num_params: float
    epochs: int
    state: str

    @property
    def complete(self) -> bool:
        """Whether the training ran to its last epoch."""
        return self.epochs == STUDY_EPOCHS


POINTS = (
    PublishedPoint(1, 20.4, 0.381, 1.2e6, 75, "stopped at epoch 75 of 150; “about 20.3” expected"),
    PublishedPoint(4, 20.1, 0.384, 2.0e6, 135, "stopped at epoch 135 of 150; “about 20.0” expected"),
    PublishedPoint(5, 20.50, 0.383, 2.3e6, 150, "complete, best at epoch 150"),
    PublishedPoint(6, 20.60, 0.385, 2.74e6, 150, "complete, but as 50 epochs and then 100 more"),
    PublishedPoint(7, 21.77, 0.379, 3.1e6, 150, "complete, best at epoch 149"),
)

TRAJECTORY_NUM_LAYERS = 6
TRAJECTORY = {1: 87.5, 5: 67.0, 10: 67.6, 20: 46.9, 30: 33.2, 40: 28.9, 50: 26.03}
"""Validation perplexity after an epoch, of an earlier run of the same setting at depth 6."""

STUDY_DATA: dict[str, tuple[str, object]] = {
    "data.source": ("source of the text", "wikitext"),
    "data.config": ("release of the text", "wikitext-2-v1"),
    "data.vocabulary_size": ("vocabulary size", 1000),
    "data.min_words": ("fewest words of a row", 5),
    "data.window": ("window in tokens", 64),
    "data.stride": ("stride in tokens", 32),
}
"""Parameter → its name in words and the value of the specification. Where these differ, perplexities are of another
text or another prediction task, and cannot be put beside the published ones."""

STUDY_TRAINING: dict[str, tuple[str, object]] = {
    "model.embedding_dim": ("embedding size", 256),
    "model.context_dim": ("context size", 256),
    "model.hidden_size": ("hidden size", 512),
    "model.dropout": ("dropout", 0.1),
    "train.epochs": ("epochs", STUDY_EPOCHS),
    "train.batch_size": ("batch size in windows", 2048),
    "train.base_learning_rate": ("base learning rate", 1e-4),
    "train.base_batch_size": ("base batch size", 32),
    "train.precision": ("precision", "fp16"),
    "train.gradient_clipping": ("gradient clipping", [[1, 0.5], [11, 1.0], [31, 2.0]]),
    "train.patience": ("patience in epochs", 30),
    "train.min_improvement": ("smallest improvement", 0.001),
}
"""As STUDY_DATA, for the model and its training."""

STUDY_SWITCHES: dict[str, tuple[str, object]] = {
    "model.residual": ("residual connections", False),
    "model.initialisation": ("initial weights of the hidden layers", "normal"),
    "train.schedule": ("schedule of the learning rate", "constant"),
    "train.warmup_epochs": ("warm-up in epochs", 0),
}
"""As STUDY_DATA, for what the notebook does not have; what a run does not record is off."""

EXPECTED = {4: 20.0, 1: 20.3}
"""Depth → validation perplexity that the notebook expects at the end of the full training; rounded there to 0.1."""

SMALLEST_DIFFERENCE = 0.10
"""The smallest difference of perplexity from which the notebook concludes anything: 5 layers against 6."""
