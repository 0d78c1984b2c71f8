"""The method in NumPy: the specification that the native library meets. Imports nothing of the package but errors."""
