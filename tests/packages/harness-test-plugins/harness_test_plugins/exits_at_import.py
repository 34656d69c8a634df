"""Ends the program while it is imported."""

import sys

sys.exit("bye")
