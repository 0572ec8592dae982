"""Scorers of toxicity and what is done with their scores."""
