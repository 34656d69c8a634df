"""Training and evaluation on one device, yielding results as they happen. No SQL, no printing."""
