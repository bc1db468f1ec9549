"""Looking into dumps without restoring them: find, diff, mount, export."""
