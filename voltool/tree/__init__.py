"""What is in a volume: scan, manifest, home stamps, diff, and apply (restore, merge and move share one apply)."""
