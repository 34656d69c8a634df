"""A module whose import crashes the process."""

import ctypes

ctypes.string_at(0)
