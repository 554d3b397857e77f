"""Faults at every call by which catdb changes a database: what the tests of its safety are made of."""
