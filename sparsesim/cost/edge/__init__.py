"""Edge boards and consumer cards: their constants, fitted on published measurements only."""
