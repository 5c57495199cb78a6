//! What Quarry reads from and keeps in the Kubernetes API.
