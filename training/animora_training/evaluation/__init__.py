"""How good an order is, and what it is compared with."""
