"""Fails while it is imported, in a function of its own."""


def _look_up():
    raise KeyError("the plugin's own mistake")


_look_up()
