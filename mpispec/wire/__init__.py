"""Messages and activations as bytes."""
