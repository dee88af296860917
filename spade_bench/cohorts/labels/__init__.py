"""Cohorts and splits out of the files that people download."""
