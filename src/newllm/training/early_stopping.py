"""When a seed has its best epoch, and when it stops."""

import math


class EarlyStopping:
    """Follows one seed's validation loss.

    The best epoch is the one with the lowest loss. Patience is counted in epochs since the loss last fell by at least
    `min_improvement` below the value of the previous such fall.
    """

    def __init__(self, patience: int, min_improvement: float) -> None:
        self.patience = patience
        self.min_improvement = min_improvement
        self.best_epoch = 0
        self.best_loss = math.inf
        self._reference = math.inf
        self._reference_epoch = 0

    def update(self, epoch: int, val_loss: float) -> bool:
        """Takes an epoch's validation loss in nats; true if it is the lowest so far."""
        if val_loss <= self._reference - self.min_improvement:
            self._reference, self._reference_epoch = val_loss, epoch
        is_best = val_loss < self.best_loss
        if is_best:
            self.best_loss, self.best_epoch = val_loss, epoch
        return is_best

    def is_exhausted(self, epoch: int) -> bool:
        """Whether `patience` epochs have passed without improvement."""
        return epoch - self._reference_epoch >= self.patience
