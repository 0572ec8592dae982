"""What a run needs on a TPU slice, compiled without a TPU: verb `plan`."""
