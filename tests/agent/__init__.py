"""Tests of the agent's handlers, called in this process against real trees."""
