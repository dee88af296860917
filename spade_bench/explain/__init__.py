"""Which patches a fitted head looked at."""

from __future__ import annotations

from spade_bench.explain.attentionmap import AttentionMap, attention_map

__all__ = ["AttentionMap", "attention_map"]
