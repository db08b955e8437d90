"""Arithmetic on bits: floating-point numbers as integers, counter-based random numbers, tables of magnitudes."""
