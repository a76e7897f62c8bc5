"""Pictures of runs, drawn through matplotlib's objects: nothing global is touched."""
