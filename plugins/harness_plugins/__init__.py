"""The built-in plugins, registered through entry points like anybody else's."""
