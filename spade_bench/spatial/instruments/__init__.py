"""What the instruments write: Space Ranger's spots and bins, Xenium's transcripts."""
