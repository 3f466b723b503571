"""The process that trains: it claims jobs of a gateway, samples, grades, steps, and reports."""
