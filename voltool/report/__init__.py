"""What an administrator reads: status, and the report as text and as one HTML page."""
