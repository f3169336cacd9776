"""How many requests are in flight, and waiting for what may hang. Without Ray or HTTP."""
