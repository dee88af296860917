"""Does an encoder see the tissue or the hospital: points of classes and centres, and probes."""
