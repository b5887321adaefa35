"""A look inside a found subnetwork: numbers per layer, and a figure of them."""
