"""What training and service agree on: the manifest and the only implementation of preprocessing."""
