"""Finding what leaks in a live process: what is observed, what that means, and how a person is told."""
