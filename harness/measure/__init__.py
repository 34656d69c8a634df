"""The clock, timers, memory and the environment: every timing and every synchronisation lives here."""
