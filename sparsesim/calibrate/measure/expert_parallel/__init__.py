"""A mixture-of-experts layer spread over ranks: dispatch, expert FFN and combine, timed apart and together."""
