"""What `--help` shows, and how it is laid out."""
