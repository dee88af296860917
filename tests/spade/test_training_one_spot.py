"""An expert with a single validation spot keeps its last epoch, not its first."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from spade_bench.encoders.spade.pretraining.training import train_experts


def test_one_validation_spot_chooses_no_epoch(spade_data, spade_config, tmp_path):
    split = np.array(spade_data.split)
    split[np.flatnonzero(spade_data.expert == 3)[0]] = "val"  # its loss is zero at every epoch
    result = train_experts(
        replace(spade_data, split=split), spade_config, tmp_path, experts=[1, 3], device="cpu"
    )
    assert result.best_epoch[3] == spade_config.epochs
    assert all(row["val_loss"] is None for row in result.history if row["expert"] == 3)
    assert all(row["val_loss"] is not None for row in result.history if row["expert"] == 1)
    assert any("expert 3 has one validation spot" in note for note in result.notes)
