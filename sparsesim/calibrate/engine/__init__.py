"""Engine profiles from what servers were measured to do."""
