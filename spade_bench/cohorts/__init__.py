"""Cohorts: tables, episodes, folds, contamination, and what others published."""
