"""The model that ships with the package, model/packaged.py, under its public name."""

from .model.packaged import model_path

__all__ = ["model_path"]
