"""Formats of other tools: what they measured comes in, and what was measured here goes out."""
