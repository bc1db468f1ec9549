"""Tests of voltool; they use real parts wherever there are any."""
