"""Static pages from stored rows: queries, then view dataclasses, then templates."""

from __future__ import annotations

from harness.report.render import render_report

__all__ = ["render_report"]
