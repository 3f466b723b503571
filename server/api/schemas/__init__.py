"""What routes take and answer, as pydantic models of the wire."""
