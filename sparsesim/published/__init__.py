"""Published measurements of real servers, as things sparsesim can predict."""
