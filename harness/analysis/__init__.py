"""Figures and ensembles from stored predictions: pure functions."""
