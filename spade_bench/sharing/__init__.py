"""Models passed on and taken over: `push` and `pull`."""
