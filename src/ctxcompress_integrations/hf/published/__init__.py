"""Checkpoints that the authors of the methods published, one layout per file, read into this package's names.

Every tensor of a checkpoint must find its place and every place its tensor; what does not fit is an error that
names it.
"""
