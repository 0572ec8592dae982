"""Meshes, sharding rules and the shardings that follow from them."""
