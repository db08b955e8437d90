"""Residency: in which memory the parents are kept, and how they come to the device."""
