"""Training: data, losses, optimizers, checkpoints and the loop."""
