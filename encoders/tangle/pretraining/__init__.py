"""Pretraining of TANGLE: from paired cases to a model folder."""
