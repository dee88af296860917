"""Checks of cohort tables, features and splits, before anything runs."""
