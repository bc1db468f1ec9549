"""The other direction for a lazy replica: hosts that serve come to its door (`wire.doors`). Ships to servers."""
