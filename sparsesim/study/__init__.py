"""Studies: scenarios varied, searched, and held against measurements."""
