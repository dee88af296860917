"""Pretraining of SPADE: from paired spots to a model folder."""
