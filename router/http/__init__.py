"""HTTP: requests in, bytes to engines and back, refusals."""
