"""Training jobs as rows: what owners do with them, what workers claim and report, and what comes of them."""
