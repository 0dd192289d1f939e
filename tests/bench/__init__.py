"""`make bench`: load on real processes over loopback, reported as one table."""
