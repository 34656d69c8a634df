"""Where a run executes: a child process on this machine."""
