"""Encodings: compression, segments on disk, deltas on the wire. No I/O."""
