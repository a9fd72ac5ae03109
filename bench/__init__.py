"""What the platform costs: beside its peers in one run, as it grows, and as it gets old."""
