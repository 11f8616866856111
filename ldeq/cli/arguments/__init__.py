"""What each command takes on its line, one command a file.

These modules need neither torch nor numpy, so that help and the answer to a mistake in typing come at once. A class here says
what there is; the class without ``Arguments`` in its name, in the module of `ldeq.cli` that is called the same, does it.
"""
