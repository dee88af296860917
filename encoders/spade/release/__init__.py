"""Import of the public SPADE release."""
