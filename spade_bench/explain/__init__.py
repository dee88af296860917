"""Which patches a fitted head looked at."""
