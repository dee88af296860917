"""One module per kind of picture: which pictures there are, their numbers, and how they look."""
