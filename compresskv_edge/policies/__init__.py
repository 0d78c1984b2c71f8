"""Eviction methods of the field to compare with, one file a method, named as in its paper.

Each is a pure function that returns the ascending indices of the tokens to keep.
"""
