"""Plugins whose import does the worst."""
