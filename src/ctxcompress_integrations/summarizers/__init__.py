"""Passage -> summary vectors, one file per method."""
