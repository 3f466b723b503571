"""What every room may know: errors, names, settings, paths, who asks. No routes, no SQL, no vLLM."""
