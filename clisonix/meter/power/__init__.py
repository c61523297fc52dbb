"""Power limits of GPUs, and the same work under several of them."""
