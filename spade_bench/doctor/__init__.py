"""What works on this machine, and what to type where something does not."""

from __future__ import annotations

from spade_bench.doctor.contract import Finding, check_encoder
from spade_bench.doctor.diagnose import Diagnosis, EncoderState, diagnose
from spade_bench.doctor.headcontract import check_head
from spade_bench.doctor.spotheadcontract import check_spot_head

__all__ = ["Diagnosis", "EncoderState", "Finding", "check_encoder", "check_head",
           "check_spot_head", "diagnose"]  # fmt: skip
