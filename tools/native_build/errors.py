"""The one error of the build."""


class BuildError(RuntimeError):
    """A native library cannot be built here; the message says why and what to do."""
