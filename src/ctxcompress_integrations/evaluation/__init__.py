"""Benchmarks as commands that write JSON: every number with its unit, its target and the machine it was seen on."""
