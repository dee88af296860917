"""How long work takes on this machine, before any of it was done."""
