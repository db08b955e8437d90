"""What users and other programs see: tables, live lines, JSON, CSV. Views know records and rows, and nothing else."""
