"""Static pages from stored rows: queries, then view dataclasses, then templates."""
