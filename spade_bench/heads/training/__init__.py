"""How heads are trained by gradient steps: many models at once over bags that are read once."""
