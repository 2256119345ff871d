"""A small HTTP/1.1 client for the leg between a gateway and the places where models run. Imports nothing of Servery."""
