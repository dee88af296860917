"""Contrastive training of the data experts: concurrent, resumable, each one independent."""

from spade_bench.encoders.spade.pretraining.training.experttraining import (
    TrainingStopped,
    TrainResult,
    arithmetic_of,
    train_experts,
)
from spade_bench.encoders.spade.pretraining.training.trainingdata import TrainingData

__all__ = ["TrainResult", "TrainingData", "TrainingStopped", "arithmetic_of", "train_experts"]
