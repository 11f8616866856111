"""Tests that can fail: breaks the code on purpose, one place at a time, and says which faults no test notices."""
