"""Agents on hosts: built, shipped, started, talked to. Knows SSH streams and messages, but not what is asked of an agent."""
