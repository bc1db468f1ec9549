"""Tests of volumes: records, drivers, what the kernel says has changed."""
