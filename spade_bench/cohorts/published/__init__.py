"""Splits that others published, read as they are."""
