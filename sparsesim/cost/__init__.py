"""What devices answer: seconds, joules and bytes of the work they are asked for."""
