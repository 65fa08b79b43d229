"""What the lab notebook of 2025-11-18 published and its code did, and what the study prescribes; data only.

Source: the notebook “New-LLM: number of layers on WikiText-2”, one NVIDIA L4 with FP16, as transcribed in the study's
specification; its code and logs: rato-tokyo/new-llm on GitHub at 4a4ba5f and c39f7ae. Of the validation split.
"""

from dataclasses import dataclass

STUDY_DEPTHS = (1, 2, 3, 4, 5, 6, 7, 8)
STUDY_NUM_SEEDS = 5
STUDY_EPOCHS = 150
EXPECTED = {4: 20.0, 1: 20.3}
"""Depth → validation perplexity that the notebook expects at the end of the full training; rounded there to 0.1."""
SMALLEST_DIFFERENCE = 0.10
"""The smallest difference of perplexity from which the notebook concludes anything: 5 layers against 6."""
TARGETS = (20.50, 19.64)
"""Validation perplexities to be reached: the notebook's best complete run (5 layers), and the study's best run before
this one (3 layers)."""


@dataclass(frozen=True)
class Point:
    """One depth as the notebook reports it; accuracy as a fraction; parameters as printed there, rounded.

    `epochs` is how many it was trained, `state` the notebook's remark.
    """

    num_layers: int
    val_ppl: float
    val_accuracy: float
    num_params: float
    epochs: int
    complete: bool
    state: str


POINTS = (
    Point(1, 20.4, 0.381, 1.2e6, 75, False, "stopped at epoch 75 of 150; “about 20.3” expected"),
    Point(4, 20.1, 0.384, 2.0e6, 135, False, "stopped at epoch 135 of 150; “about 20.0” expected"),
    Point(5, 20.50, 0.383, 2.3e6, 150, True, "complete, best at epoch 150"),
    Point(6, 20.60, 0.385, 2.74e6, 200, True, "complete; 50 and then 100 epochs by its words, 50 and 150 by its code"),
    Point(7, 21.77, 0.379, 3.1e6, 150, True, "complete, best at epoch 149"),
)

TRAJECTORY = {1: 87.5, 5: 67.0, 10: 67.6, 20: 46.9, 30: 33.2, 40: 28.9, 50: 26.03}
"""Validation perplexity after an epoch, of an earlier run of the same setting at depth 6."""

LOGS: dict[int, dict[int, tuple[float, float, float]]] = {
    1: {52: (2.8362, 20.5, 37.9), 57: (2.8117, 20.4, 38.0), 62: (2.7902, 20.4, 38.0), 67: (2.7705, 20.5, 38.1),
        72: (2.7522, 20.4, 38.1), 74: (2.7458, 20.4, 38.0)},
    4: {112: (2.8652, 20.3, 38.2), 117: (2.8576, 20.3, 38.3), 122: (2.8479, 20.2, 38.3), 127: (2.8379, 20.2, 38.4),
        132: (2.8299, 20.2, 38.4), 134: (2.8272, 20.1, 38.4)},
    5: {132: (2.8810, 20.7, 38.2), 137: (2.8731, 20.6, 38.2), 142: (2.8657, 20.6, 38.2), 147: (2.8578, 20.6, 38.3),
        150: (2.8524, 20.5, 38.3)},
    7: {132: (2.9942, 22.0, 37.8), 137: (2.9875, 21.9, 37.7), 142: (2.9752, 21.9, 37.8), 147: (2.9677, 21.8, 37.9),
        150: (2.9617, 21.8, 37.8)},
}  # fmt: skip
"""Depth → epoch → training loss, validation perplexity and validation accuracy in percent, as its logs have them."""

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
