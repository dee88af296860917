"""Tasks of expression: sections, the features of their spots, controls, and the cells of a run."""
