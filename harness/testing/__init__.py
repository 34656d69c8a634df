"""What comes with harness for tests: a plugin of pytest's, :mod:`harness.testing.plugin`."""
