"""Puts both programs onto a host under systemd, brings them to another version, and takes them away again.

A plan is a sequence of steps, made from facts without touching anything; the executor performs it. Everything happens
below one root directory, `/` on a live host.
"""
