"""Subnetworks as files (tickets); reading one imports neither the trainer nor optax."""
