"""Regions of interest: outlines on a slide, their files, and bags cut to them."""
