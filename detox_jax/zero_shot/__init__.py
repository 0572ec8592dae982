"""Questions that a model answers without training: verbs `choices` and `lm_eval`."""
