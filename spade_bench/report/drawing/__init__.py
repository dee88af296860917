"""Figures on their way to files: how they look on paper, and who saves them."""
