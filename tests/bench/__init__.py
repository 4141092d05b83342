"""`python -m tests.bench`: what our two programs cost and how fast they heal, beside nginx and Monit."""
