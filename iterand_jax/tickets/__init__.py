"""A found subnetwork as a file; reading one needs neither the trainer nor optax."""
