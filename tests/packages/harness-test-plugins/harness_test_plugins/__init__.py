"""Plugins for the tests."""
