"""Publishing: what an export says about itself, and its upload to the hub."""
