"""The bench: stock and compressed, side by side in one run."""
