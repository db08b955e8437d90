"""Residency: the memory that keeps the parents, and how they reach the device."""
