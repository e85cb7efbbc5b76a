"""What the linker will place, region by region, and what fits."""
