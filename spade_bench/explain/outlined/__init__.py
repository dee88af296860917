"""Regions that somebody outlined, as `explain` draws them and holds maps against them."""
