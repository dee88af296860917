"""Paired data: H&E images with spatial transcriptomics, of every technology that can be read."""

from spade_bench.spatial.expression import load_expression
from spade_bench.spatial.hest import read_hest
from spade_bench.spatial.instruments.pseudospots import Pooling
from spade_bench.spatial.instruments.spaceranger import read_spaceranger
from spade_bench.spatial.instruments.technologies import read_section
from spade_bench.spatial.manifest import read_manifest
from spade_bench.spatial.sample import StSample

__all__ = [
    "Pooling",
    "StSample",
    "load_expression",
    "read_hest",
    "read_manifest",
    "read_section",
    "read_spaceranger",
]
