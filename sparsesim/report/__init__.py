"""Pictures, tables and one page that say what a run found."""
