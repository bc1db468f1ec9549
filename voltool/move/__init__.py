"""What is done with a volume as a whole: clones for the user, where it lives."""
