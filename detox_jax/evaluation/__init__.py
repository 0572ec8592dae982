"""Toxicity and quality metrics with their uncertainty, and the report."""
