"""The version, in one place: the build, the library's own version string and every room read it here."""

__version__ = "0.1.0"
