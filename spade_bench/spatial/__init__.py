"""Paired data: H&E images with spatial transcriptomics (HEST-1k, manifests, Space Ranger)."""

from spade_bench.spatial.expression import load_expression
from spade_bench.spatial.hest import read_hest
from spade_bench.spatial.manifest import read_manifest
from spade_bench.spatial.sample import StSample
from spade_bench.spatial.spaceranger import read_spaceranger

__all__ = ["StSample", "load_expression", "read_hest", "read_manifest", "read_spaceranger"]
