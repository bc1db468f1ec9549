"""Dumps and restores: plans (pure), steps and the loops that drive them. Prints nothing; reports events."""
