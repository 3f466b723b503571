"""How much anyone may have at once: quotas, the fair queue, the budget for recipes, memory for bodies."""
