"""Encoders that judge toxicity: read as published, trained, run on the mesh, written back."""
