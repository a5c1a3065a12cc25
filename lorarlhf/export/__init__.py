"""Artefacts that other programs load."""
