"""An append-only log of named streams with free forks: bytes in, bytes out."""
