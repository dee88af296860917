"""Slides: opening, pyramids, tissue, the grid of patches, and quality filters."""
